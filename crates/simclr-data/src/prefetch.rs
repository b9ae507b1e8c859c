//! Work done ahead on threads and handed over in order.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

/// An iterator over `make(job)` for consecutive jobs, computed on worker threads.
///
/// The items come in the order of the jobs whatever the number of workers. At most `workers + ahead` of them are in work or
/// waiting. A panic of `make` is a panic of `next`. Dropping the iterator waits for the items in work and ends all threads.
pub(crate) struct Prefetch<T> {
    shared: Arc<Shared<T>>,
    workers: Vec<thread::JoinHandle<()>>,
    end: usize,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Something is ready.
    ready: Condvar,
    /// There is room for more, or nobody wants more.
    room: Condvar,
}

struct State<T> {
    /// The next job that a worker takes.
    next_job: usize,
    /// The next item that the iterator gives.
    next_item: usize,
    done: BTreeMap<usize, thread::Result<T>>,
    stopped: bool,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        // Nothing panics while it holds the lock; a poisoned one is as good as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static> Prefetch<T> {
    /// Starts `workers` threads (at least one) on `jobs`.
    ///
    /// # Errors
    /// If a thread cannot be started; those that were are ended.
    pub(crate) fn new(
        jobs: Range<usize>,
        workers: usize,
        ahead: usize,
        make: impl Fn(usize) -> T + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let state = State { next_job: jobs.start, next_item: jobs.start, done: BTreeMap::new(), stopped: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), ready: Condvar::new(), room: Condvar::new() });
        let make = Arc::new(make);
        let count = workers.clamp(1, jobs.len().max(1));
        let window = count + ahead;
        let mut prefetch = Self { shared, workers: Vec::with_capacity(count), end: jobs.end };
        for number in 0..count {
            let (shared, make) = (prefetch.shared.clone(), make.clone());
            let worker = thread::Builder::new().name(format!("loader-{number}"));
            // On an error `prefetch` is dropped, which ends the threads before this one.
            prefetch.workers.push(worker.spawn(move || work(&shared, jobs.end, window, make.as_ref()))?);
        }
        Ok(prefetch)
    }
}

fn work<T>(shared: &Shared<T>, end: usize, window: usize, make: &impl Fn(usize) -> T) {
    loop {
        let job = {
            let full = |state: &mut State<T>| {
                !state.stopped && state.next_job < end && state.next_job >= state.next_item + window
            };
            let mut state = shared.room.wait_while(shared.state(), full).unwrap_or_else(PoisonError::into_inner);
            if state.stopped || state.next_job >= end {
                return;
            }
            state.next_job += 1;
            state.next_job - 1
        };
        let item = catch_unwind(AssertUnwindSafe(|| make(job)));
        shared.state().done.insert(job, item);
        shared.ready.notify_one();
    }
}

impl<T> Iterator for Prefetch<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let mut state = self.shared.state();
        let item = state.next_item;
        if item >= self.end {
            return None;
        }
        let missing = |state: &mut State<T>| !state.done.contains_key(&item);
        state = self.shared.ready.wait_while(state, missing).unwrap_or_else(PoisonError::into_inner);
        let result = state.done.remove(&item);
        state.next_item += 1;
        // All: those that wait at the end of the jobs have to notice it too.
        self.shared.room.notify_all();
        drop(state);
        result.map(|result| result.unwrap_or_else(|panic| resume_unwind(panic)))
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        self.shared.state().stopped = true;
        self.shared.room.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its work, so that there is nothing to learn from its end.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use super::*;

    #[test]
    fn items_come_in_order_whoever_is_fastest() {
        for workers in [0, 1, 2, 8] {
            let make = |job: usize| {
                thread::sleep(Duration::from_micros(if job.is_multiple_of(3) { 500 } else { 0 }));
                job * job
            };
            let items: Vec<usize> = Prefetch::new(5..40, workers, 2, make).unwrap().collect();
            assert_eq!(items, (5..40).map(|job| job * job).collect::<Vec<_>>());
        }
        assert_eq!(Prefetch::new(3..3, 2, 2, |job| job).unwrap().next(), None);
    }

    #[test]
    fn work_stays_within_the_window_and_ends_with_the_iterator() {
        let started = Arc::new(AtomicUsize::new(0));
        let alive = Arc::new(());
        let (count, witness) = (started.clone(), alive.clone());
        let mut items = Prefetch::new(0..1000, 2, 3, move |job| {
            let _ = &witness;
            count.fetch_add(1, Ordering::SeqCst);
            job
        })
        .unwrap();
        assert_eq!(items.next(), Some(0));
        thread::sleep(Duration::from_millis(30));
        // One was taken; two workers and three waiting make five more.
        assert_eq!(started.load(Ordering::SeqCst), 6);
        drop(items);
        // The closure went with the last thread.
        assert_eq!(Arc::strong_count(&alive), 1);
        assert_eq!(started.load(Ordering::SeqCst), 6);
    }

    #[test]
    fn a_panic_arrives_in_its_place() {
        let mut items = Prefetch::new(0..10, 2, 2, |job| {
            assert!(job != 4, "job four");
            job
        })
        .unwrap();
        assert_eq!(items.by_ref().take(4).collect::<Vec<_>>(), [0, 1, 2, 3]);
        let panic = catch_unwind(AssertUnwindSafe(|| items.next())).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"job four"));
    }
}
