//! What the words of a report mean, one click away from where they stand.

use maud::{Markup, html};

use super::anchor;

/// A term and what it means.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Definition {
    pub(crate) term: &'static str,
    pub(crate) meaning: &'static str,
}

/// A text in which the terms lead to their definitions: of each term the first place, of two terms in one place the longer.
pub(crate) fn linked(text: &str, definitions: &[Definition]) -> Markup {
    let mut by_length: Vec<&Definition> = definitions.iter().collect();
    by_length.sort_by_key(|definition| std::cmp::Reverse(definition.term.len()));
    let mut taken: Vec<(usize, usize, &str)> = Vec::new();
    for Definition { term, .. } in by_length {
        let place = text.match_indices(term).map(|(start, _)| (start, start + term.len())).find(|&(start, end)| {
            // Words, not parts of words; and nothing twice.
            let letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
            !letter(text[..start].chars().next_back())
                && !letter(text[end..].chars().next())
                && taken.iter().all(|&(from, to, _)| end <= from || start >= to)
        });
        taken.extend(place.map(|(start, end)| (start, end, *term)));
    }
    taken.sort_unstable();
    let starts = std::iter::once(0).chain(taken.iter().map(|&(_, end, _)| end));
    html! {
        @for (at, &(start, end, term)) in starts.zip(&taken) {
            (&text[at..start])
            a.term href={ "#term-" (anchor(term)) } { (&text[start..end]) }
        }
        (&text[taken.last().map_or(0, |&(_, end, _)| end)..])
    }
}

/// Those of a run.
pub(crate) fn definitions() -> Vec<Definition> {
    DEFINITIONS.map(|(term, meaning)| Definition { term, meaning }).into()
}

const DEFINITIONS: [(&str, &str); 19] = [
    (
        "pairs per second",
        "How many pictures a second go through a training step, each with its two random views: both through the \
      encoder, forward and backward, and the update.",
    ),
    (
        "NT-Xent",
        "The contrastive loss: how hard it is to find, among all views of the batch, the other view of the same picture, in nats. \
         Guessing gives ln(2n − 1) for a batch of n pictures; lower is better.",
    ),
    (
        "kNN",
        "A picture of the test split (without one, of the held-out end of the training split) is given the label that its k nearest training pictures vote for; near is the cosine of their \
         features. Nothing is trained for it. k = 200 with votes exp(sim / 0.5) is the course's protocol, k = 10 with equal votes \
         that of the literature.",
    ),
    (
        "linear",
        "A logistic regression that learns the labels of the first tenth of the labelled training pictures (fewer of large sets) from their features. The \
         encoder stays as it is; the strength of the penalty is chosen on a fifth of those labels, never on the test split.",
    ),
    ("top-1", "How often the true label comes first."),
    ("top-5", "How often the true label is among the five that come first."),
    ("raw pixels", "The same with the pixels themselves as features: what can be had without an encoder."),
    (
        "random encoder",
        "The same with the encoder as it is before any training, its weights drawn from the seed: what its architecture alone gives.",
    ),
    (
        "ImageNet encoder",
        "The same with the frozen encoder of the file that was given, trained on ImageNet by somebody else, on pictures as it knows them.",
    ),
    (
        "trained",
        "With the encoder at the end of the run. Whatever was trained on top of it during training is left out.",
    ),
    (
        "held-out labels",
        "The end of the training split. Its pictures are trained on like the others, its labels are used to follow the training and \
         to choose the best checkpoint; the test split is looked at once, at the end.",
    ),
    ("alignment", "Mean squared distance of the embeddings of the two views of a picture: 0 if they are one."),
    (
        "uniformity",
        "Logarithm of the mean of exp(−2 · squared distance) over all pairs of pictures: 0 if all embeddings are one, about −4 if \
         they are spread evenly over the sphere.",
    ),
    (
        "effective rank",
        "As of how many directions of equal weight: the exponential of the entropy of the singular values of the centred embeddings. \
         1 or less means that the encoder has collapsed.",
    ),
    (
        "t-SNE",
        "A map that puts pictures with near features near one another (perplexity 30, from the principal components). What lies far \
         apart says little, and so do the sizes of groups.",
    ),
    (
        "PCA",
        "A map along the two directions in which the features vary most: distances keep their meaning, but what lies in other \
         directions is not seen.",
    ),
    ("cosine", "The likeness of two features: 1 if they point the same way, 0 if they have nothing in common."),
    (
        "accuracy",
        "Of a probe: the share of test pictures whose factor is told right by a ridge regression on the features, a line for each kind. \
         Guessing gives one in as many kinds as there are.",
    ),
    (
        "R²",
        "Of a probe: the share of the variance of a number that a ridge regression on the features explains on test pictures. 1: it is \
         all there; 0: nothing that a line could read.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_linked_once_and_whole() {
        let definitions = ["kNN", "top-1", "random encoder", "encoder"].map(|term| Definition { term, meaning: "" });
        let linked = linked("kNN kNN <top-1> of a random encoder, a top-10 and an encoder", &definitions).into_string();
        let expected = "<a class=\"term\" href=\"#term-knn\">kNN</a> kNN &lt;<a class=\"term\" href=\"#term-top-1\">top-1</a>&gt; of a \
                        <a class=\"term\" href=\"#term-random-encoder\">random encoder</a>, a top-10 and an \
                        <a class=\"term\" href=\"#term-encoder\">encoder</a>";
        assert_eq!(linked, expected);
    }
}
