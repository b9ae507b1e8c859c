//! The group over MPI, in processes that `mpirun` starts.
#![cfg(feature = "mpi")]

use std::process::Command;
use std::time::{Duration, Instant};

use simclr_dist::mpi::Mpi;
use simclr_dist::{Backend, Buckets, ProcessGroup, join};

const ROLE: &str = "SIMCLR_DIST_TEST_ROLE";

/// Runs this test again in `ranks` processes; what they said, and whether all ended well.
fn start(test: &str, ranks: usize, role: &str) -> (bool, String) {
    let ranks = ranks.to_string();
    let mut command = Command::new("mpirun");
    command.args(["-n", &ranks, "--oversubscribe", "-x", ROLE]);
    command.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture", "--test-threads", "1"]);
    command.env(ROLE, role).env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    let output = command.output().expect("mpirun of Open MPI, which this feature is built against");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

/// The role of this process, if it is one of those that a test has started.
fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

#[test]
fn ranks_meet() {
    if role().is_none() {
        for ranks in [1, 2, 3, 4] {
            let (well, text) = start("ranks_meet", ranks, "meet");
            assert!(well, "{ranks} ranks: {text}");
        }
        return;
    }
    let group = join(Some(Backend::Mpi)).unwrap();
    let (rank, size) = (group.rank(), group.size());
    let total: usize = (1..=size).sum();
    // Small and large sums of which some are under way while others are made; more small ones than are gathered.
    let mut buckets = Buckets::new(group.clone(), 1 << 18);
    for key in 0..5 {
        buckets.add(key, &vec![(rank + 1) as f32; 100_000]).unwrap();
        let mut small = [0.1 * (rank + 1) as f64, 1.0];
        group.sum(&mut small).unwrap();
        assert!((small[0] - 0.1 * total as f64).abs() < 1e-12 && small[1] == size as f64);
    }
    let mut many = vec![(rank + 1) as f64; 200_000];
    group.sum(&mut many).unwrap();
    assert!(many.iter().all(|&sum| sum == total as f64));
    group.sum(&mut []).unwrap();
    for (key, (found, sums)) in buckets.sums().unwrap().into_iter().enumerate() {
        assert!(found == key && sums.len() == 100_000 && sums.iter().all(|&sum| sum == total as f32));
    }
    let all = group.all_gather(&vec![rank as u8; 3 * rank]).unwrap();
    assert!(all.iter().enumerate().all(|(rank, bytes)| *bytes == vec![rank as u8; 3 * rank]) && all.len() == size);
    let told = group.broadcast(size - 1, vec![rank as u8; 5 * rank]).unwrap();
    assert_eq!(told, vec![(size - 1) as u8; 5 * (size - 1)]);
    group.barrier().unwrap();
    group.finish().unwrap();
    assert!(group.barrier().is_err(), "nothing comes after the end");
    assert!(Mpi::join().is_err(), "MPI cannot begin twice");
}

#[test]
fn one_that_leaves_without_a_word_ends_all() {
    for way in ["abort", "drop", "exit"] {
        if role().is_none() {
            let began = Instant::now();
            let (well, text) = start("one_that_leaves_without_a_word_ends_all", 3, way);
            assert!(!well && began.elapsed() < Duration::from_secs(30), "{way}: {text}");
        }
    }
    let Some(role) = role() else { return };
    let group = Mpi::join().unwrap();
    if group.rank() == 1 {
        match role.as_str() {
            "abort" => group.abort(7),
            "drop" => drop(group),
            _ => std::process::exit(3),
        }
        std::thread::sleep(Duration::from_secs(60));
    } else {
        // The others wait for it.
        let _ = group.barrier();
    }
}
