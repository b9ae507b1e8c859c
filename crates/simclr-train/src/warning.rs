//! What a run says when its numbers show that nothing is learned.

/// Steps before anything is said: the first ones of a long warm-up learn little.
const PATIENCE: u64 = 100;

/// How near to guessing a loss shows nothing, in nats.
const NOTHING: f64 = 0.02;

/// Deviation of the embeddings under which they are as good as one; 1 is all directions.
const COLLAPSED: f64 = 0.1;

/// A warning in plain words after an epoch with this mean loss, or none.
///
/// `embedding_std` is the last deviation of the embeddings that was measured.
pub(crate) fn of_epoch(loss: f64, batch: usize, step: u64, embedding_std: Option<f64>) -> Option<String> {
    let guessing = ((2 * batch - 1) as f64).ln();
    if step < PATIENCE {
        return None;
    }
    match embedding_std {
        Some(std) if std < COLLAPSED => Some(format!(
            "warning: the encoder has collapsed: the embeddings of all pictures are nearly the same (deviation {std:.3}, where 1 is all \
             directions). A lower --lr, --warmup or batch norm in the head may help"
        )),
        _ if loss > guessing - NOTHING => Some(format!(
            "warning: the loss is {loss:.4}, and ln(2n - 1) = {guessing:.4} is what guessing gives: the views carry no signal, or the \
             encoder does not learn. Look at the views (`simclr-train augment`); another --lr or --temperature may help"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_shows_no_learning_is_warned_of() {
        let guessing = 127f64.ln();
        assert_eq!(of_epoch(guessing, 64, 99, Some(0.0)), None, "too early to tell");
        assert_eq!(of_epoch(4.2, 64, 100, Some(0.9)), None);
        assert!(of_epoch(guessing - 0.01, 64, 100, Some(0.9)).unwrap().contains("ln(2n - 1) = 4.8442"));
        assert!(of_epoch(guessing, 64, 100, None).unwrap().contains("no signal"));
        assert!(of_epoch(guessing, 64, 100, Some(0.05)).unwrap().contains("collapsed"));
    }
}
