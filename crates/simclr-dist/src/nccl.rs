//! NCCL between GPUs, one to each process, spoken to by one thread of its own.
//!
//! That thread makes every call of CUDA and NCCL, in the order in which they were asked for, so that sums of gradients go on while the
//! caller computes. What is summed comes from the memory of the host, is copied to the GPU and back: today's program computes on CPUs.
//! Tensors on the GPU can be summed where they are when its operations have a CUDA form.
//!
//! NCCL itself waits for ever for a process that has died: with torchrun's variables processes watch over each other where they have
//! met, under `mpirun` and `srun` MPI ends them all.

use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::error::DistError;
use crate::group::{Pending, ProcessGroup};
use crate::launch::Launch;
use crate::meeting::{Loss, Meeting, died};

mod server;

use server::{Answer, Call, Server};

/// How long processes wait for each other to come.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks whether one that is waited for has died.
const LOOK: Duration = Duration::from_millis(20);

/// How long CUDA may take to say goodbye when a process ends in the middle of a sum.
const GOODBYE: Duration = Duration::from_secs(10);

/// All processes that were started together, each with a GPU.
#[derive(Debug)]
pub struct Nccl {
    rank: usize,
    size: usize,
    caller: Caller,
    peers: Peers,
}

/// How processes know of each other beside NCCL.
#[derive(Debug)]
enum Peers {
    Nobody,
    Meeting(Meeting),
    #[cfg(feature = "mpi")]
    Mpi(crate::mpi::Mpi),
}

impl Nccl {
    /// Joins them. The GPU is that of the rank on its machine, counted around if there are fewer.
    ///
    /// # Errors
    /// [`DistError::Nccl`] if this process has no GPU, or NCCL does not begin; [`DistError::Meeting`] if the processes do not find each
    /// other; [`DistError::Launch`] if they need MPI for it and this build has none.
    pub fn join(launch: &Launch) -> Result<Self, DistError> {
        match launch {
            Launch::Alone => Self::alone(),
            Launch::Meeting { rank, size, local_rank, address } => Self::meet(*rank, *size, *local_rank, address),
            Launch::Mpi { .. } => Self::over_mpi(launch),
        }
    }

    fn alone() -> Result<Self, DistError> {
        let caller = Caller::start(0)?;
        let id = caller.answer(Call::Id)?;
        caller.begin(0, 1, id)?;
        Ok(Self { rank: 0, size: 1, caller, peers: Peers::Nobody })
    }

    fn meet(rank: usize, size: usize, local_rank: usize, address: &str) -> Result<Self, DistError> {
        // One without a GPU does not let the others wait for it first.
        let caller = Caller::start(local_rank)?;
        let lost = caller.lost.clone();
        let on_loss = move |rank, loss| match loss {
            Loss::Died => lost.lose(rank),
            Loss::Aborted(status) => end(status),
        };
        let id = || caller.answer(Call::Id);
        let (meeting, id) = Meeting::hold(rank, size, address, PATIENCE, id, on_loss)?;
        caller.begin(rank, size, id)?;
        Ok(Self { rank, size, caller, peers: Peers::Meeting(meeting) })
    }

    #[cfg(not(feature = "mpi"))]
    fn over_mpi(launch: &Launch) -> Result<Self, DistError> {
        if launch.size() == 1 && matches!(launch, Launch::Mpi { size: Some(_), .. }) {
            return Self::alone();
        }
        let what = "processes that mpirun or srun has started find each other over MPI, also for NCCL, and this build has no MPI: build \
                    it with --features mpi,nccl, or start it with torchrun";
        Err(DistError::Launch { what: what.into() })
    }

    #[cfg(feature = "mpi")]
    fn over_mpi(launch: &Launch) -> Result<Self, DistError> {
        let caller = Caller::start(local_rank(|name| std::env::var(name).ok(), launch.rank()))?;
        let mpi = crate::mpi::Mpi::join()?;
        let (rank, size) = (mpi.rank(), mpi.size());
        let own = if rank == 0 { caller.answer(Call::Id) } else { Ok(Vec::new()) };
        let id = mpi.broadcast(0, own.as_deref().unwrap_or_default().to_vec())?;
        if id.is_empty() {
            mpi.finish()?;
            return Err(own.err().unwrap_or_else(|| DistError::gone("NCCL did not begin on rank 0")));
        }
        if let Err(error) = caller.begin(rank, size, id) {
            // MPI would end this process before it can say why; the others end with it.
            std::mem::forget(mpi);
            return Err(error);
        }
        Ok(Self { rank, size, caller, peers: Peers::Mpi(mpi) })
    }
}

/// Which of the processes on its machine this is, as Open MPI, torchrun, Slurm or what speaks Hydra's PMI says.
#[cfg(any(feature = "mpi", test))]
fn local_rank(variable: impl Fn(&str) -> Option<String>, rank: usize) -> usize {
    let names = ["OMPI_COMM_WORLD_LOCAL_RANK", "LOCAL_RANK", "SLURM_LOCALID", "MPI_LOCALRANKID"];
    names.iter().find_map(|name| variable(name)?.trim().parse().ok()).unwrap_or(rank)
}

impl ProcessGroup for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn sum(&self, values: &mut [f64]) -> Result<(), DistError> {
        let sums = self.caller.answer(|answer| Call::Sum(values.to_vec(), answer))?;
        values.copy_from_slice(&sums);
        Ok(())
    }

    fn start_sum(&self, values: Vec<f32>) -> Result<Pending, DistError> {
        let sums = self.caller.ask(|answer| Call::StartSum(values, answer))?;
        let lost = self.caller.lost.clone();
        Ok(Pending::new(move || wait(&sums, &lost)))
    }

    fn all_gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, DistError> {
        self.caller.answer(|answer| Call::AllGather(own.to_vec(), answer))
    }

    fn broadcast(&self, root: usize, bytes: Vec<u8>) -> Result<Vec<u8>, DistError> {
        self.caller.answer(|answer| Call::Broadcast(root, bytes, answer))
    }

    fn barrier(&self) -> Result<(), DistError> {
        self.caller.answer(Call::Barrier)
    }

    fn finish(&self) -> Result<(), DistError> {
        self.barrier()?;
        // cudarc ends NCCL with what is still on its way, which others may need: all say first that they have theirs.
        match &self.peers {
            Peers::Nobody => {}
            Peers::Meeting(meeting) => meeting.leave()?,
            #[cfg(feature = "mpi")]
            Peers::Mpi(mpi) => mpi.barrier()?,
        }
        self.caller.answer(Call::Finish)?;
        match &self.peers {
            #[cfg(feature = "mpi")]
            Peers::Mpi(mpi) => mpi.finish(),
            Peers::Nobody | Peers::Meeting(_) => Ok(()),
        }
    }

    fn abort(&self, status: i32) -> ! {
        match &self.peers {
            Peers::Nobody => {}
            Peers::Meeting(meeting) => meeting.abort(status),
            #[cfg(feature = "mpi")]
            Peers::Mpi(mpi) => mpi.abort(status),
        }
        end(status)
    }
}

/// Ends this process, also if a sum that will never end keeps CUDA from ending.
fn end(status: i32) -> ! {
    let force = || {
        std::thread::sleep(GOODBYE);
        std::process::abort()
    };
    // Without a thread the end may only come later.
    let _ = std::thread::Builder::new().spawn(force);
    exit(status)
}

/// The rank that has died, if one has: the first.
#[derive(Debug)]
struct Lost(AtomicUsize);

impl Lost {
    const NONE: usize = usize::MAX;

    fn nobody() -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(Self::NONE)))
    }

    fn lose(&self, rank: usize) {
        // Those that die of it come later.
        let _ = self.0.compare_exchange(Self::NONE, rank, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), DistError> {
        match self.0.load(Ordering::Relaxed) {
            Self::NONE => Ok(()),
            rank => Err(died(rank)),
        }
    }
}

/// The side that asks NCCL's thread.
#[derive(Debug)]
struct Caller {
    calls: Sender<Call>,
    lost: Arc<Lost>,
}

impl Caller {
    /// Starts the thread, with the GPU of the process that is `local_rank` of its machine.
    fn start(local_rank: usize) -> Result<Self, DistError> {
        let (calls, received) = channel();
        let (opened, open) = channel();
        let lost = Lost::nobody();
        let known = lost.clone();
        let run = move || match Server::open(local_rank, received, known) {
            Ok(server) => {
                let _ = opened.send(Ok(()));
                server.serve();
            }
            Err(error) => {
                let _ = opened.send(Err(error));
            }
        };
        let thread = std::thread::Builder::new().name("nccl".into()).spawn(run);
        thread.map_err(|error| DistError::Launch { what: format!("no thread for NCCL: {error}") })?;
        wait(&open, &lost)?;
        Ok(Self { calls, lost })
    }

    fn begin(&self, rank: usize, size: usize, id: Vec<u8>) -> Result<(), DistError> {
        self.answer(|answer| Call::Begin { rank, size, id, answer })
    }

    fn ask<T>(&self, call: impl FnOnce(Answer<T>) -> Call) -> Result<Receiver<Result<T, DistError>>, DistError> {
        self.lost.check()?;
        let (answer, answered) = channel();
        self.calls.send(call(answer)).map_err(|_| DistError::gone("NCCL has ended"))?;
        Ok(answered)
    }

    fn answer<T>(&self, call: impl FnOnce(Answer<T>) -> Call) -> Result<T, DistError> {
        wait(&self.ask(call)?, &self.lost)
    }
}

/// Waits for an answer, or until it is known that none will come.
fn wait<T>(answered: &Receiver<Result<T, DistError>>, lost: &Lost) -> Result<T, DistError> {
    loop {
        match answered.recv_timeout(LOOK) {
            Ok(answer) => return answer,
            Err(RecvTimeoutError::Timeout) => lost.check()?,
            Err(RecvTimeoutError::Disconnected) => {
                lost.check()?;
                return Err(DistError::gone("NCCL has ended"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn who_waits_for_one_that_dies_learns_of_it() {
        let (calls, received) = channel();
        let caller = Caller { calls, lost: Lost::nobody() };
        // A thread that hangs in NCCL: it has taken the call and never answers.
        let hang = std::thread::spawn(move || received.recv().unwrap());
        let lost = caller.lost.clone();
        let began = Instant::now();
        let later = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            lost.lose(3);
            lost.lose(1);
        });
        let message = caller.answer(Call::Barrier).unwrap_err().to_string();
        assert_eq!(message, "the other processes cannot be reached: rank 3 has died");
        assert!(began.elapsed() < Duration::from_secs(1));
        later.join().unwrap();
        assert!(caller.ask(Call::Barrier).unwrap_err().to_string().contains("rank 3 has died"));
        drop(hang.join().unwrap());
    }

    #[test]
    fn a_thread_that_has_ended_is_no_reason_to_wait() {
        let (calls, received) = channel();
        let caller = Caller { calls, lost: Lost::nobody() };
        let end = std::thread::spawn(move || drop(received.recv().unwrap()));
        let message = caller.answer(Call::Barrier).unwrap_err().to_string();
        assert_eq!(message, "the other processes cannot be reached: NCCL has ended");
        end.join().unwrap();
        assert!(caller.answer(Call::Barrier).is_err());
    }

    #[test]
    fn the_place_on_a_machine_is_what_a_launcher_says() {
        let of = |variables: &[(&str, &str)], rank| {
            local_rank(
                |name| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned()),
                rank,
            )
        };
        assert_eq!(of(&[("OMPI_COMM_WORLD_LOCAL_RANK", "1"), ("SLURM_LOCALID", "0")], 5), 1);
        assert_eq!(of(&[("SLURM_LOCALID", "2")], 5), 2);
        assert_eq!(of(&[("MPI_LOCALRANKID", "3")], 5), 3);
        assert_eq!(of(&[("LOCAL_RANK", "none")], 5), 5);
    }

    #[cfg(not(feature = "mpi"))]
    #[test]
    fn under_mpirun_mpi_is_missed() {
        let launch = Launch::Mpi { rank: Some(0), size: Some(2) };
        let error = Nccl::join(&launch).unwrap_err();
        assert!(
            matches!(error, DistError::Launch { .. }) && error.to_string().contains("--features mpi,nccl"),
            "{error}"
        );
    }
}
