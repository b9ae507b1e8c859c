//! Connections that tell who is still there.

use std::fmt::{Debug, Formatter};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Lines;
use super::message::Message;
use crate::error::DistError;

/// How a rank was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Its connection has ended without a farewell.
    Died,
    /// It ends all ranks with this exit status.
    Aborted(i32),
}

/// What is told to whoever waits for `rank`.
pub(crate) fn died(rank: usize) -> DistError {
    DistError::gone(format!("rank {rank} has died"))
}

/// Rank 0 has a connection to each of the others, each of them has one to rank 0.
pub(super) struct Watch {
    rank: usize,
    lines: Vec<(usize, Mutex<TcpStream>)>,
    state: Mutex<State>,
    changed: Condvar,
    on_loss: Box<dyn Fn(usize, Loss) + Send + Sync>,
}

#[derive(Debug, Default)]
struct State {
    /// Ranks that have said farewell, of those with a connection.
    left: Vec<usize>,
    /// Ranks that are gone without.
    lost: Vec<usize>,
    /// This rank speaks to nobody any more.
    closed: bool,
}

impl Debug for Watch {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("rank", &self.rank).field("state", &self.state).finish_non_exhaustive()
    }
}

impl Watch {
    /// Watches these connections.
    pub(super) fn begin(
        rank: usize,
        lines: Lines,
        on_loss: Box<dyn Fn(usize, Loss) + Send + Sync>,
    ) -> io::Result<Arc<Self>> {
        let mut reads = Vec::new();
        for (peer, line) in &lines {
            line.set_read_timeout(None)?;
            reads.push((*peer, line.try_clone()?));
        }
        let lines = lines.into_iter().map(|(peer, line)| (peer, Mutex::new(line))).collect();
        let watch = Arc::new(Self { rank, lines, state: Mutex::default(), changed: Condvar::new(), on_loss });
        for (peer, line) in reads {
            let watching = watch.clone();
            let thread = std::thread::Builder::new().name(format!("watch {peer}"));
            if let Err(error) = thread.spawn(move || watching.follow(peer, &line)) {
                watch.close();
                return Err(error);
            }
        }
        Ok(watch)
    }

    /// Hears what `peer` says, to its end.
    fn follow(&self, peer: usize, line: &TcpStream) {
        loop {
            match Message::read(line) {
                Ok(Message::Farewell) => {
                    self.state().left.push(peer);
                    self.changed.notify_all();
                }
                // Only rank 0 speaks of others.
                Ok(Message::Died(rank)) if peer == 0 => self.lose(rank, Loss::Died),
                Ok(Message::Aborted(rank, status)) => {
                    self.lose(if peer == 0 { rank } else { peer }, Loss::Aborted(status))
                }
                Ok(_) | Err(_) => {
                    if !self.state().left.contains(&peer) {
                        self.lose(peer, Loss::Died);
                    }
                    return;
                }
            }
        }
    }

    fn lose(&self, rank: usize, loss: Loss) {
        {
            let mut state = self.state();
            if state.closed || state.lost.contains(&rank) {
                return;
            }
            state.lost.push(rank);
        }
        self.changed.notify_all();
        if self.rank == 0 {
            // Before this process may end of it.
            match loss {
                Loss::Died => self.tell(&Message::Died(rank)),
                Loss::Aborted(status) => self.tell(&Message::Aborted(rank, status)),
            }
        }
        (self.on_loss)(rank, loss);
    }

    /// As [`super::Meeting::leave`].
    pub(super) fn leave(&self) -> Result<(), DistError> {
        if self.rank != 0 {
            self.tell(&Message::Farewell);
        }
        let mut state = self.state();
        while !self.lines.iter().all(|(peer, _)| state.left.contains(peer)) {
            if let Some(&rank) = state.lost.first() {
                return Err(died(rank));
            }
            if state.closed {
                return Err(DistError::gone("this rank has hung up"));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        if self.rank == 0 {
            self.tell(&Message::Farewell);
        }
        self.close();
        Ok(())
    }

    /// As [`super::Meeting::abort`].
    pub(super) fn abort(&self, status: i32) {
        self.tell(&Message::Aborted(self.rank, status));
        self.close();
    }

    /// Ends the connections; the threads that read them end with them.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
        for (_, line) in &self.lines {
            // The other end may have closed it before.
            let _ = line.lock().unwrap_or_else(PoisonError::into_inner).shutdown(Shutdown::Both);
        }
    }

    fn tell(&self, message: &Message) {
        for (_, line) in &self.lines {
            let line = line.lock().unwrap_or_else(PoisonError::into_inner);
            // One that cannot be reached is found out by whoever reads from it.
            let _ = message.write(&*line);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
