use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::thread::{JoinHandle, sleep, spawn};

use super::*;

/// Long enough for all that should happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a rank has at the end of a meeting.
type Held = Result<(Meeting, Vec<u8>, Receiver<(usize, Loss)>), DistError>;

/// An address of this machine where nobody listens, below the ports that systems give to those who connect.
fn address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let port = 10_000 + (std::process::id() + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let address = format!("127.0.0.1:{port}");
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

fn hold(rank: usize, size: usize, address: &str, patience: Duration) -> Held {
    let (lost, losses) = channel();
    let id = || Ok(b"the id".to_vec());
    let (meeting, id) = Meeting::hold(rank, size, address, patience, id, move |rank, loss| {
        let _ = lost.send((rank, loss));
    })?;
    Ok((meeting, id, losses))
}

fn start(rank: usize, size: usize, address: &str, patience: Duration) -> JoinHandle<Held> {
    let address = address.to_owned();
    spawn(move || hold(rank, size, &address, patience))
}

fn all(size: usize) -> Vec<(Meeting, Receiver<(usize, Loss)>)> {
    let address = address();
    let ranks: Vec<_> = (0..size).map(|rank| start(rank, size, &address, PATIENCE)).collect();
    let held = |rank: JoinHandle<Held>| {
        let (meeting, id, losses) = rank.join().unwrap().unwrap();
        assert_eq!(id, b"the id");
        (meeting, losses)
    };
    ranks.into_iter().map(held).collect()
}

/// The reason of a meeting that has failed.
fn why(held: Held, rank: usize) -> String {
    match held {
        Err(DistError::Meeting { rank: who, why, .. }) if who == rank => why,
        other => panic!("rank {rank}: {other:?}"),
    }
}

#[test]
fn all_meet_and_leave() {
    for size in [1, 2, 5] {
        let mut held = all(size);
        // The others stay until the last has said farewell.
        let (last, losses) = held.pop().unwrap();
        let leaving: Vec<_> =
            held.into_iter().map(|(meeting, losses)| spawn(move || (meeting.leave(), losses))).collect();
        sleep(Duration::from_millis(50));
        assert!(leaving.iter().all(|rank| !rank.is_finished()));
        last.leave().unwrap();
        last.leave().unwrap();
        drop(last);
        for rank in leaving {
            let (left, losses) = rank.join().unwrap();
            left.unwrap();
            assert!(losses.try_recv().is_err(), "a farewell is no death");
        }
        assert!(losses.try_recv().is_err());
    }
}

#[test]
fn a_late_rank_0_is_waited_for() {
    let address = address();
    let one = start(1, 2, &address, PATIENCE);
    sleep(Duration::from_millis(400));
    assert!(!one.is_finished());
    let zero = hold(0, 2, &address, PATIENCE).unwrap();
    let one = one.join().unwrap().unwrap();
    let leaving = spawn(move || one.0.leave());
    zero.0.leave().unwrap();
    leaving.join().unwrap().unwrap();
}

#[test]
fn strangers_do_not_disturb() {
    let address = address();
    let zero = start(0, 3, &address, PATIENCE);
    let stranger = || {
        let until = Instant::now() + PATIENCE;
        loop {
            match TcpStream::connect(&address) {
                Ok(line) => return line,
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            sleep(LOOK);
        }
    };
    let silent = stranger();
    let mut garbage = stranger();
    garbage.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
    // It is hung up on; whether what it said was read before decides how that looks.
    assert!(!matches!(garbage.read(&mut [0]), Ok(1..)));
    drop(stranger());
    let began = Instant::now();
    let others: Vec<_> = [1, 2].into_iter().map(|rank| start(rank, 3, &address, PATIENCE)).collect();
    let held: Vec<_> = others.into_iter().map(|rank| rank.join().unwrap().unwrap()).collect();
    assert!(began.elapsed() < GREETING, "nobody waited for the silent one");
    assert_eq!(zero.join().unwrap().unwrap().1, b"the id");
    drop((silent, held));
}

#[test]
fn ranks_that_are_missing_are_named() {
    let (address, patience) = (address(), Duration::from_millis(400));
    let zero = start(0, 4, &address, patience);
    let two = start(2, 4, &address, PATIENCE);
    let want = "ranks 1, 3 did not come within 400ms";
    assert_eq!(why(zero.join().unwrap(), 0), want);
    assert_eq!(why(two.join().unwrap(), 2), want);
    let alone = why(hold(1, 2, &address, patience), 1);
    assert!(alone.starts_with("no rank 0 was there within 400ms: ") && alone.contains("refused"), "{alone}");
}

#[test]
fn a_rank_that_comes_twice_or_counts_wrong_ends_the_meeting() {
    for (rank, size, want) in [
        (1, 3, "rank 1 has come twice"),
        (2, 4, "rank 2 counts 4 ranks, rank 0 counts 3"),
        (7, 3, "one more process says that it is rank 7 of 3"),
    ] {
        let address = address();
        let ranks = [(0, 3), (1, 3)].map(|(rank, size)| (rank, start(rank, size, &address, PATIENCE)));
        sleep(Duration::from_millis(300));
        assert_eq!(why(hold(rank, size, &address, PATIENCE), rank), want);
        for (rank, held) in ranks {
            assert_eq!(why(held.join().unwrap(), rank), want);
        }
    }
}

#[test]
fn what_rank_0_cannot_give_is_told_to_all() {
    let address = address();
    let one = start(1, 2, &address, PATIENCE);
    let id = || Err(DistError::Nccl { device: "GPU 0".into(), what: "ncclSystemError".into() });
    let zero = Meeting::hold(0, 2, &address, PATIENCE, id, |_, _| ()).unwrap_err();
    assert!(matches!(zero, DistError::Nccl { .. }), "{zero}");
    assert_eq!(why(one.join().unwrap(), 1), "NCCL on GPU 0: ncclSystemError");
}

#[test]
fn what_listens_there_may_be_no_rank_0() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let one = start(1, 2, &address, PATIENCE);
    let (mut line, _) = listener.accept().unwrap();
    line.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    assert_eq!(why(one.join().unwrap(), 1), "what listens there is not rank 0");
    let taken = why(hold(0, 2, &address, PATIENCE), 0);
    assert!(taken.starts_with("rank 0 cannot listen on port "), "{taken}");
    assert_eq!(why(hold(1, 2, "here", PATIENCE), 1), "this is no host and port");
}

#[test]
fn one_that_dies_is_told_to_all_others() {
    for dead in 0..4 {
        let mut held = all(4);
        let (died, _) = held.remove(dead);
        let began = Instant::now();
        drop(died);
        for (meeting, losses) in &held {
            assert_eq!(losses.recv_timeout(PATIENCE).unwrap(), (dead, Loss::Died));
            let message = meeting.leave().unwrap_err().to_string();
            assert!(message.contains(&format!("rank {dead} has died")), "{message}");
        }
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
}

#[test]
fn one_that_ends_all_says_how() {
    for ending in [0, 2] {
        let mut held = all(3);
        held.remove(ending).0.abort(7);
        for (_, losses) in &held {
            assert_eq!(losses.recv_timeout(PATIENCE).unwrap(), (ending, Loss::Aborted(7)));
            assert_eq!(losses.recv_timeout(Duration::from_millis(50)), Err(RecvTimeoutError::Timeout));
        }
    }
}

#[test]
fn addresses_may_be_of_ipv6() {
    let place = |address| {
        Place { rank: 1, size: 2, address, patience: PATIENCE }.host_and_port().map(|(host, _)| host.to_owned())
    };
    assert_eq!(place("::1:29500").unwrap(), "::1");
    assert_eq!(place("[::1]:29500").unwrap(), "::1");
    assert_eq!(place("node7:29500").unwrap(), "node7");
}
