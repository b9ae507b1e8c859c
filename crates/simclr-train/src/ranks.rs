//! The processes that work on one command together: who they are, what each has a share of, what they agree on.

#[cfg(test)]
mod equal;
mod meeting;
mod tensors;

pub(crate) use tensors::BUCKET;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use simclr_data::Share;
use simclr_dist::{ProcessGroup, Single};
use simclr_ops::context::Reduction;
use simclr_ops::{Context, OpsError};

use crate::Usage;

/// All processes of a command, as this one sees them. They make the same calls in the same order.
#[derive(Clone, Debug)]
pub(crate) struct Ranks {
    group: Arc<dyn ProcessGroup>,
    /// The machine that this one is on.
    host: String,
    /// How many of them share its cores.
    on_these_cores: usize,
    /// What is to be said of the cores that they do not use.
    idle: Option<String>,
}

/// What went wrong, known to all: the first of them says it, and each ends by itself.
#[derive(Debug)]
pub(crate) struct Agreed {
    message: String,
    pub(crate) is_usage: bool,
}

impl fmt::Display for Agreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Agreed {}

impl Agreed {
    /// An error that all of them make out of what all of them know.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        Self { message: format!("{error:#}"), is_usage: error.is::<Usage>() }
    }
}

impl Ranks {
    /// One process.
    pub(crate) fn alone() -> Self {
        Self::of(Arc::new(Single))
    }

    /// The processes of a group, which all are on machines of their own.
    pub(crate) fn of(group: Arc<dyn ProcessGroup>) -> Self {
        Self { group, host: String::new(), on_these_cores: 1, idle: None }
    }

    /// The same over another group, which is made of theirs.
    #[must_use]
    pub(crate) fn over(&self, group: Arc<dyn ProcessGroup>) -> Self {
        Self { group, ..self.clone() }
    }

    pub(crate) fn group(&self) -> &Arc<dyn ProcessGroup> {
        &self.group
    }

    pub(crate) fn rank(&self) -> usize {
        self.group.rank()
    }

    /// How many they are.
    pub(crate) fn count(&self) -> usize {
        self.group.size()
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.count() == 1
    }

    /// Whether this is the one that writes and speaks.
    pub(crate) fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Compute threads of this one, where nobody says otherwise.
    pub(crate) fn threads(&self) -> Option<usize> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        (self.on_these_cores > 1).then(|| (cores / self.on_these_cores).max(1))
    }

    /// What is to be said of the cores that they do not use.
    pub(crate) fn idle(&self) -> Option<&str> {
        self.idle.as_deref()
    }

    /// What `run` makes of something that all of them work on: the first before the others, who find what it left.
    pub(crate) fn one_by_one<T>(&self, run: impl FnOnce() -> T) -> anyhow::Result<T> {
        if !self.is_first() {
            self.group.barrier()?;
        }
        let made = run();
        if self.is_first() {
            self.group.barrier()?;
        }
        Ok(made)
    }

    /// Which of `len` things are this one's.
    pub(crate) fn share(&self, len: usize) -> Range<usize> {
        simclr_dist::share(len, self.rank(), self.count())
    }

    /// Which pictures of every batch, of which `chunk` go through the model together, are this one's.
    pub(crate) fn share_of_batches(&self, chunk: Option<usize>) -> Share {
        Share { rank: self.rank(), ranks: self.count(), chunk }
    }

    /// `ctx` with batch norm over the pictures of all of them, or of each by itself.
    pub(crate) fn context(&self, ctx: Context, sync_batch_norm: bool) -> Context {
        if self.is_alone() || !sync_batch_norm {
            return ctx;
        }
        ctx.with_reduction(Arc::new(OverAll(self.group.clone())))
    }

    /// Whether it holds for any of them.
    pub(crate) fn any(&self, holds: bool) -> anyhow::Result<bool> {
        if self.is_alone() {
            return Ok(holds);
        }
        let mut count = [f64::from(u8::from(holds))];
        self.group.sum(&mut count)?;
        Ok(count[0] > 0.0)
    }

    /// Replaces each of `numbers` by its sum.
    pub(crate) fn sum(&self, numbers: &mut [f64]) -> anyhow::Result<()> {
        Ok(self.group.sum(numbers)?)
    }

    /// What each of them has, by rank.
    pub(crate) fn gather<T: Serialize + DeserializeOwned>(&self, own: &T) -> anyhow::Result<Vec<T>> {
        let all = self.group.all_gather(&serde_json::to_vec(own)?)?;
        Ok(all.iter().map(|bytes| serde_json::from_slice(bytes)).collect::<Result<_, _>>()?)
    }

    /// What the first of them makes of `run`; the others only hear of it.
    ///
    /// # Errors
    /// [`Agreed`] if it failed.
    pub(crate) fn first_tells<T: Serialize + DeserializeOwned>(
        &self,
        run: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        if self.is_alone() {
            return run();
        }
        let made = if self.is_first() {
            Some(run().map_err(|error| (format!("{error:#}"), error.is::<Usage>())))
        } else {
            None
        };
        let told = self.group.broadcast(0, serde_json::to_vec(&made)?)?;
        match serde_json::from_slice::<Option<Result<T, (String, bool)>>>(&told)? {
            Some(Ok(made)) => Ok(made),
            Some(Err((message, is_usage))) => Err(Agreed { message, is_usage }.into()),
            None => anyhow::bail!("rank 0 said nothing"),
        }
    }

    /// What `own` is if it went well on all of them.
    ///
    /// # Errors
    /// [`Agreed`], which names those on which it did not.
    pub(crate) fn agree<T>(&self, own: anyhow::Result<T>) -> anyhow::Result<T> {
        if self.is_alone() || own.as_ref().is_err_and(|error| error.is::<Agreed>()) {
            return own;
        }
        let failed = own.as_ref().err().map(|error| (self.name(), format!("{error:#}"), error.is::<Usage>()));
        let failed: Vec<_> = self.gather(&failed)?.into_iter().flatten().collect();
        let Some((name, first, is_usage)) = failed.first() else { return own };
        let others = failed.iter().skip(1).filter(|(_, message, _)| message != first);
        let message = if failed.len() == self.count() && others.clone().next().is_none() {
            first.clone()
        } else {
            let others: String = others.map(|(name, message, _)| format!("; {name}: {message}")).collect();
            format!("{name}: {first}{others}")
        };
        Err(Agreed { message, is_usage: *is_usage }.into())
    }

    /// Makes sure that `own`, which is `what`, is the same on all of them.
    ///
    /// # Errors
    /// [`Agreed`], which names the first that differs, or those on which it could not be had.
    pub(crate) fn must_match(&self, what: &str, own: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        let own = self.agree(own())?;
        let all = self.gather(&(self.name(), own))?;
        let (first, expected) = &all[0];
        let Some((name, found)) = all.iter().find(|(_, found)| found != expected) else { return Ok(()) };
        let message = format!("{name} has another {what} than {first}: {found}, where {first} has {expected}");
        Err(Agreed { message, is_usage: false }.into())
    }

    /// `rank 1 of 4 (node7)`.
    pub(crate) fn name(&self) -> String {
        format!("rank {} of {} ({})", self.rank(), self.count(), self.host)
    }
}

/// Sums over the batches of all processes.
#[derive(Debug)]
struct OverAll(Arc<dyn ProcessGroup>);

impl Reduction for OverAll {
    fn sum(&self, values: &mut [f64]) -> Result<(), OpsError> {
        self.0.sum(values).map_err(|error| candle_core::Error::wrap(error).into())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What `run` returns on each of `count` ranks.
    pub(crate) fn on_ranks<R: Send>(count: usize, run: impl Fn(Ranks) -> R + Sync) -> Vec<R> {
        std::thread::scope(|scope| {
            let run = &run;
            let groups = simclr_dist::threads(count).into_iter();
            let ranks: Vec<_> = groups.map(|group| scope.spawn(move || run(Ranks::of(group)))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn all_know_what_one_knows() {
        let told = on_ranks(3, |ranks| {
            assert!(ranks.any(ranks.rank() == 2).unwrap() && !ranks.any(false).unwrap());
            assert_eq!(ranks.first_tells(|| Ok(10 + ranks.rank())).unwrap(), 10);
            let refused = ranks.first_tells(|| -> anyhow::Result<u8> { Err(Usage("--batch is 0".into()).into()) });
            let refused = refused.unwrap_err();
            assert!(refused.is::<Agreed>() && refused.to_string() == "--batch is 0");
            assert_eq!(ranks.agree(Ok(ranks.rank())).unwrap(), ranks.rank());
            let own = if ranks.rank() == 1 { Err(anyhow::anyhow!("no such file")) } else { Ok(()) };
            let one = ranks.agree(own).unwrap_err().to_string();
            let all = ranks.agree::<()>(Err(anyhow::anyhow!("no such flag"))).unwrap_err().to_string();
            ranks.must_match("data set", || Ok("shapes".into())).unwrap();
            let own = if ranks.rank() == 2 { "cats" } else { "dogs" };
            let other = ranks.must_match("data set", || Ok(own.into())).unwrap_err();
            assert_eq!(ranks.one_by_one(|| 7).unwrap(), 7);
            (one, all, other.to_string())
        });
        for (one, all, other) in told {
            assert_eq!(one, "rank 1 of 3 (): no such file");
            assert_eq!(all, "no such flag");
            assert_eq!(
                other,
                "rank 2 of 3 () has another data set than rank 0 of 3 (): cats, where rank 0 of 3 () has dogs"
            );
        }
    }
}
