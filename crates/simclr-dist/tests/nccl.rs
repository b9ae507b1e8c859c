//! The group over NCCL: on a machine without a GPU what it says, on others one process, and one for each GPU if there are more.
#![cfg(feature = "nccl")]
#![allow(clippy::print_stderr, reason = "what was tested depends on the machine")]

use std::net::TcpListener;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use cudarc::driver::CudaContext;
use simclr_dist::nccl::Nccl;
use simclr_dist::{DistError, Launch, ProcessGroup};

/// Set in processes that a test has started.
const ROLE: &str = "SIMCLR_DIST_TEST_ROLE";

/// Every call of the group.
fn speak(group: &dyn ProcessGroup) {
    let (rank, size) = (group.rank(), group.size());
    let total = (size * (size + 1) / 2) as f64;
    let own = (rank + 1) as f64;
    let large: Vec<_> = (0..3).map(|_| group.start_sum(vec![own as f32; 1_000_000]).unwrap()).collect();
    let mut small = [0.1 * own, 1.0];
    group.sum(&mut small).unwrap();
    assert!((small[0] - 0.1 * total).abs() < 1e-12 && small[1] == size as f64);
    for sums in large {
        let sums = sums.wait().unwrap();
        assert!(sums.len() == 1_000_000 && sums.iter().all(|&sum| sum == total as f32));
    }
    let mut many = vec![own; 200_000];
    group.sum(&mut many).unwrap();
    assert!(many.iter().all(|&sum| sum == total));
    group.sum(&mut []).unwrap();
    assert!(group.start_sum(Vec::new()).unwrap().wait().unwrap().is_empty());
    let all = group.all_gather(&vec![rank as u8; 3 * rank]).unwrap();
    assert!(all.iter().enumerate().all(|(rank, bytes)| *bytes == vec![rank as u8; 3 * rank]) && all.len() == size);
    assert_eq!(group.all_gather(&[7; 5]).unwrap(), vec![vec![7; 5]; size]);
    let told = group.broadcast(size - 1, vec![rank as u8; 5 * rank + 1]).unwrap();
    assert_eq!(told, vec![(size - 1) as u8; 5 * (size - 1) + 1]);
    assert!(group.broadcast(0, Vec::new()).unwrap().is_empty());
    group.barrier().unwrap();
    group.finish().unwrap();
    assert!(matches!(group.barrier(), Err(DistError::Gone { .. })), "nothing comes after the end");
}

#[test]
fn a_group_of_one_or_the_reason_why_not() {
    let joined = Nccl::join(&Launch::Alone);
    if CudaContext::device_count().is_ok_and(|count| count > 0) {
        speak(&joined.unwrap());
        eprintln!("there is a GPU: a group of one has spoken");
    } else {
        let launches = [Launch::Meeting { rank: 1, size: 2, local_rank: 1, address: "127.0.0.1:1".into() }];
        for joined in launches.iter().map(Nccl::join).chain([joined]) {
            let message = joined.unwrap_err().to_string();
            assert_eq!(message, "NCCL on this machine: there is no GPU that CUDA can use");
        }
        eprintln!("there is no GPU: only what is said of it was tested");
    }
}

/// The group of this process, if a test has started it, and its role.
fn started() -> Option<(Nccl, String)> {
    let given = std::env::var(ROLE).ok()?;
    let [rank, size, address, role] = given.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let (rank, size) = (rank.parse().unwrap(), size.parse().unwrap());
    let launch = Launch::Meeting { rank, size, local_rank: rank, address: address.into() };
    Some((Nccl::join(&launch).unwrap(), role.into()))
}

/// Runs this test again in a process for each GPU; how they end, by rank. Nothing if there are not two GPUs.
fn start(test: &str, role: &str) -> Vec<ExitStatus> {
    let size = CudaContext::device_count().unwrap_or(0);
    if size < 2 {
        eprintln!("{test}: {size} GPUs, no two processes can meet");
        return Vec::new();
    }
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let start = |rank| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).stdin(Stdio::null());
        command.env(ROLE, format!("{rank} {size} {address} {role}")).spawn().unwrap()
    };
    let processes: Vec<_> = (0..size).map(start).collect();
    processes.into_iter().map(|mut process| process.wait().unwrap()).collect()
}

#[test]
fn one_process_for_each_gpu() {
    if let Some((group, _)) = started() {
        return speak(&group);
    }
    for (rank, status) in start("one_process_for_each_gpu", "speak").into_iter().enumerate() {
        assert!(status.success(), "rank {rank}: {status}");
    }
}

#[test]
fn one_that_leaves_without_a_word_keeps_nobody_waiting() {
    let Some((group, role)) = started() else {
        for (role, rest) in [("abort", 7), ("drop", 0), ("exit", 0)] {
            let began = Instant::now();
            let ends = start("one_that_leaves_without_a_word_keeps_nobody_waiting", role);
            let ends: Vec<_> = ends.into_iter().map(|status| status.code()).collect();
            assert!(
                ends.iter().enumerate().all(|(rank, &end)| end == Some(if rank == 1 { 7 } else { rest })),
                "{role}: {ends:?}"
            );
            assert!(began.elapsed() < Duration::from_secs(60), "{role}");
        }
        return;
    };
    group.barrier().unwrap();
    if group.rank() == 1 {
        match role.as_str() {
            "abort" => group.abort(7),
            "drop" => drop(group),
            _ => {}
        }
        std::process::exit(7);
    }
    // The others wait for it.
    let error = group.barrier().unwrap_err();
    if role == "abort" {
        // The end may come a moment later than the news that the connection is gone.
        std::thread::sleep(Duration::from_secs(60));
    }
    assert!(matches!(error, DistError::Gone { .. } | DistError::Nccl { .. }), "{error}");
}

#[cfg(feature = "mpi")]
#[test]
fn one_process_for_each_gpu_over_mpi() {
    const TEST: &str = "one_process_for_each_gpu_over_mpi";
    if std::env::var(ROLE).is_ok() {
        return speak(&*simclr_dist::join(Some(simclr_dist::Backend::Nccl)).unwrap());
    }
    let size = CudaContext::device_count().unwrap_or(0);
    if size < 1 {
        eprintln!("{TEST}: no GPU");
        return;
    }
    let mut command = Command::new("mpirun");
    command.args(["-n", &size.to_string(), "--oversubscribe", "-x", ROLE]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", TEST, "--nocapture"]).env(ROLE, "speak");
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    assert!(command.status().expect("mpirun of Open MPI").success());
}
