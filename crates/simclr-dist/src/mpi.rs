//! MPI of the system, spoken to by one thread of its own.
//!
//! That thread makes every call of MPI (`MPI_THREAD_FUNNELED` is enough), so that sums of gradients go on while the caller computes:
//! it asks for their progress between the small calls, which go before them. Small and large calls have a communicator each, so that
//! their order to one another does not matter.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::collective::{CommunicatorCollectives as _, Root as _, SystemOperation};
use mpi::datatype::PartitionMut;
use mpi::request::{Request, Scope, scope};
use mpi::topology::{Communicator as _, SimpleCommunicator};

use crate::error::DistError;
use crate::group::{Pending, ProcessGroup};
use crate::tree;

/// Bytes of all ranks that one gather or broadcast moves: MPI counts in 31 bits.
const BLOCK: usize = 1 << 30;

/// Small sums of all ranks together that are gathered and added in the order of a tree; more of them MPI adds, in an order of its own.
const MOST_GATHERED: usize = 1 << 20;

/// Between two looks at a large sum, when nothing else is to be done.
const LOOK: Duration = Duration::from_micros(100);

/// How long a wait is without pause: after that others of this machine may want the core.
const IMPATIENT: Duration = Duration::from_millis(2);

type Answer<T> = Sender<T>;

/// What the caller's thread asks of MPI's.
enum Call {
    Sum(Vec<f64>, Answer<Result<Vec<f64>, DistError>>),
    StartSum(Vec<f32>, Answer<Vec<f32>>),
    AllGather(Vec<u8>, Answer<Vec<Vec<u8>>>),
    Broadcast(usize, Vec<u8>, Answer<Vec<u8>>),
    Barrier(Answer<()>),
    Finish,
    Abort(i32),
}

/// All processes that `mpirun` or `srun` started together.
#[derive(Debug)]
pub struct Mpi {
    rank: usize,
    size: usize,
    calls: Sender<Call>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Whether the caller stands still for a large sum: then no core is taken from it.
    stands_still: Arc<AtomicBool>,
}

impl Mpi {
    /// Joins them. A process can do so once.
    ///
    /// # Errors
    /// [`DistError::Launch`] if MPI was begun before, or cannot serve a thread.
    pub fn join() -> Result<Self, DistError> {
        let (calls, received) = channel();
        let (joined, place) = channel();
        let stands_still = Arc::new(AtomicBool::new(false));
        let caller = stands_still.clone();
        let run = move || {
            let Some((universe, threading)) = mpi::initialize_with_threading(Threading::Funneled) else {
                let _ = joined.send(Err(DistError::Launch { what: "MPI was begun before in this process".into() }));
                return;
            };
            if threading == Threading::Single {
                let what = "this MPI serves no program that has threads (MPI_THREAD_SINGLE is all that it provides)";
                let _ = joined.send(Err(DistError::Launch { what: what.into() }));
                return;
            }
            let world = universe.world();
            let _ = joined.send(Ok((world.rank() as usize, world.size() as usize)));
            let small = world.duplicate();
            let server = Server { small, large: world.duplicate(), calls: received, stands_still: caller };
            server.serve();
        };
        let thread = std::thread::Builder::new().name("mpi".into()).spawn(run);
        let thread = thread.map_err(|error| DistError::Launch { what: format!("no thread for MPI: {error}") })?;
        let (rank, size) = place.recv().map_err(|_| DistError::gone("MPI did not begin"))??;
        Ok(Self { rank, size, calls, thread: Mutex::new(Some(thread)), stands_still })
    }

    fn ask<T>(&self, call: impl FnOnce(Answer<T>) -> Call) -> Result<Receiver<T>, DistError> {
        let (answer, answered) = channel();
        self.calls.send(call(answer)).map_err(|_| DistError::gone("MPI has ended"))?;
        Ok(answered)
    }

    fn answer<T>(&self, call: impl FnOnce(Answer<T>) -> Call) -> Result<T, DistError> {
        self.ask(call)?.recv().map_err(|_| DistError::gone("MPI has ended"))
    }
}

impl ProcessGroup for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn sum(&self, values: &mut [f64]) -> Result<(), DistError> {
        let sums = self.answer(|answer| Call::Sum(values.to_vec(), answer))??;
        values.copy_from_slice(&sums);
        Ok(())
    }

    fn start_sum(&self, values: Vec<f32>) -> Result<Pending, DistError> {
        let sums = self.ask(|answer| Call::StartSum(values, answer))?;
        let stands_still = self.stands_still.clone();
        Ok(Pending::new(move || {
            stands_still.store(true, Ordering::Relaxed);
            let sums = sums.recv().map_err(|_| DistError::gone("MPI has ended"));
            stands_still.store(false, Ordering::Relaxed);
            sums
        }))
    }

    fn all_gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, DistError> {
        self.answer(|answer| Call::AllGather(own.to_vec(), answer))
    }

    fn broadcast(&self, root: usize, bytes: Vec<u8>) -> Result<Vec<u8>, DistError> {
        self.answer(|answer| Call::Broadcast(root, bytes, answer))
    }

    fn barrier(&self) -> Result<(), DistError> {
        self.answer(Call::Barrier)
    }

    fn finish(&self) -> Result<(), DistError> {
        self.calls.send(Call::Finish).map_err(|_| DistError::gone("MPI has ended"))?;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        thread.map_or(Ok(()), |thread| thread.join().map_err(|_| DistError::gone("MPI did not end well")))
    }

    fn abort(&self, status: i32) -> ! {
        // The thread ends the process when it comes to it; if it is gone, this one does.
        let asked = self.calls.send(Call::Abort(status));
        if asked.is_ok() {
            std::thread::sleep(Duration::from_secs(10));
        }
        std::process::exit(status)
    }
}

/// The side that speaks to MPI.
struct Server {
    small: SimpleCommunicator,
    large: SimpleCommunicator,
    calls: Receiver<Call>,
    stands_still: Arc<AtomicBool>,
}

/// Whether there is more to come.
#[derive(PartialEq)]
enum More {
    Yes,
    No,
}

impl Server {
    fn serve(&self) {
        loop {
            let more = match self.calls.recv() {
                Ok(call) => self.serve_one(call),
                // Whoever held the other end is gone without a word: the others must not wait for it.
                Err(_) => self.small.abort(1),
            };
            if more == More::No {
                // The end of MPI waits for all without rest: this one is patient.
                wait(self.small.immediate_barrier());
                return;
            }
        }
    }

    /// Sums that, and what else comes to be summed meanwhile; small calls are served in between.
    fn sum_large(&self, values: Vec<f32>, answer: Answer<Vec<f32>>) -> More {
        let mut waiting = VecDeque::from([(values, answer)]);
        let mut more = More::Yes;
        while let Some((values, answer)) = waiting.pop_front() {
            let mut sums = vec![0f32; values.len()];
            scope(|scope| {
                let mut request =
                    self.large.immediate_all_reduce_into(scope, &values[..], &mut sums[..], SystemOperation::sum());
                while let Err(not_yet) = request.test() {
                    request = not_yet;
                    match self.next() {
                        Ok(Call::StartSum(values, answer)) => waiting.push_back((values, answer)),
                        // Only after the sums that were asked for before.
                        Ok(Call::Finish) => more = More::No,
                        Ok(call) => {
                            self.serve_one(call);
                        }
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => self.large.abort(1),
                    }
                }
            });
            // Whoever does not wait for a sum does not want it.
            let _ = answer.send(sums);
        }
        more
    }

    /// The next call, if one comes before it is time to look at a sum again.
    fn next(&self) -> Result<Call, RecvTimeoutError> {
        if !self.stands_still.load(Ordering::Relaxed) {
            return self.calls.recv_timeout(LOOK);
        }
        std::thread::yield_now();
        self.calls.try_recv().map_err(|error| match error {
            TryRecvError::Empty => RecvTimeoutError::Timeout,
            TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
        })
    }

    fn serve_one(&self, call: Call) -> More {
        match call {
            Call::Sum(values, answer) => {
                let _ = answer.send(self.sum_small(values));
            }
            Call::AllGather(own, answer) => {
                let _ = answer.send(self.all_gather(&own));
            }
            Call::Broadcast(root, bytes, answer) => {
                let _ = answer.send(self.broadcast(root, bytes));
            }
            Call::Barrier(answer) => {
                wait(self.small.immediate_barrier());
                let _ = answer.send(());
            }
            Call::StartSum(values, answer) => return self.sum_large(values, answer),
            Call::Finish => return More::No,
            Call::Abort(status) => self.small.abort(status),
        }
        More::Yes
    }

    fn size(&self) -> usize {
        self.small.size() as usize
    }

    fn sum_small(&self, values: Vec<f64>) -> Result<Vec<f64>, DistError> {
        let (len, size) = (values.len(), self.size());
        if size_of_val(&*values) * size > MOST_GATHERED {
            let mut sums = vec![0f64; len];
            scope(|scope| {
                let (own, sums) = (&values[..], &mut sums[..]);
                wait(self.small.immediate_all_reduce_into(scope, own, sums, SystemOperation::sum()));
            });
            return Ok(sums);
        }
        let mut all = vec![0f64; len * size];
        scope(|scope| wait(self.small.immediate_all_gather_into(scope, &values[..], &mut all[..])));
        tree::sum(if len == 0 { Vec::new() } else { all.chunks(len).map(<[f64]>::to_vec).collect() })
    }

    fn all_gather(&self, own: &[u8]) -> Vec<Vec<u8>> {
        let size = self.size();
        let mut lengths = vec![0u64; size];
        let len = [own.len() as u64];
        scope(|scope| wait(self.small.immediate_all_gather_into(scope, &len[..], &mut lengths[..])));
        let lengths: Vec<usize> = lengths.into_iter().map(|len| len as usize).collect();
        let mut all: Vec<Vec<u8>> = lengths.iter().map(|&len| Vec::with_capacity(len)).collect();
        let block = BLOCK / size;
        for start in (0..lengths.iter().copied().max().unwrap_or(0)).step_by(block) {
            let part = |len: usize| len.saturating_sub(start).min(block);
            let counts: Vec<i32> = lengths.iter().map(|&len| part(len) as i32).collect();
            let places: Vec<i32> =
                counts.iter().scan(0, |sum, count| Some(std::mem::replace(sum, *sum + count))).collect();
            let mut received = vec![0u8; counts.iter().sum::<i32>() as usize];
            let given = &own[start.min(own.len())..][..part(own.len())];
            {
                let mut parts = PartitionMut::new(&mut received[..], &counts[..], &places[..]);
                scope(|scope| wait(self.small.immediate_all_gather_varcount_into(scope, given, &mut parts)));
            }
            for ((all, &place), &count) in all.iter_mut().zip(&places).zip(&counts) {
                all.extend_from_slice(&received[place as usize..][..count as usize]);
            }
        }
        all
    }

    fn broadcast(&self, root: usize, mut bytes: Vec<u8>) -> Vec<u8> {
        let process = self.small.process_at_rank(root as i32);
        let mut len = [bytes.len() as u64];
        scope(|scope| wait(process.immediate_broadcast_into(scope, &mut len[..])));
        bytes.resize(len[0] as usize, 0);
        for block in bytes.chunks_mut(BLOCK) {
            scope(|scope| wait(process.immediate_broadcast_into(scope, block)));
        }
        bytes
    }
}

/// Waits without keeping a core from those that compute: MPI's own waiting does.
fn wait<'a, D: ?Sized, S: Scope<'a>>(mut request: Request<'a, D, S>) {
    let began = Instant::now();
    while let Err(not_yet) = request.test() {
        request = not_yet;
        match began.elapsed() {
            waited if waited < IMPATIENT => std::thread::yield_now(),
            waited => std::thread::sleep((waited / 20).min(Duration::from_millis(5))),
        }
    }
}
