//! Where processes meet that torchrun, or what sets the same variables, has started.
//!
//! Rank 0 listens, the others come to it and are told what they need to speak to each other: NCCL's unique id. The connections stay:
//! a process whose connection ends without a farewell has died, and all others are told, as NCCL itself would wait for it. A machine
//! that vanishes with its connections open is not noticed.
//!
//! Whoever reaches the port can come in: as with torchrun, the network between the processes must be their own.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crate::error::DistError;

mod message;
#[cfg(test)]
mod tests;
mod watch;

use message::{Hello, Message};
pub(crate) use watch::Loss;
use watch::Watch;
#[cfg(feature = "nccl")]
pub(crate) use watch::died;

/// How long one that has come may take to say who it is: strangers say nothing.
const GREETING: Duration = Duration::from_secs(5);

/// Between two looks for one that comes.
const LOOK: Duration = Duration::from_millis(5);

/// Between two attempts to find rank 0.
const AGAIN: Duration = Duration::from_millis(100);

/// How much longer others wait for rank 0 than it waits for them: it knows who is missing.
const GRACE: Duration = Duration::from_secs(10);

/// How long one write may take before its reader counts as gone.
const WRITE: Duration = Duration::from_secs(5);

/// Connections, by rank of the other end.
type Lines = Vec<(usize, TcpStream)>;

/// Processes that have met, and watch over each other until they leave.
#[derive(Debug)]
pub(crate) struct Meeting {
    watch: Arc<Watch>,
}

impl Meeting {
    /// Meets the others at `address`, which is host and port of rank 0; returns when all have come, with what `id` gave on rank 0.
    ///
    /// `on_loss` is called, from a thread of its own, with every rank that dies or that ends all, once.
    ///
    /// # Errors
    /// [`DistError::Meeting`] if not all come within `patience`, a rank comes twice or one counts another number of ranks; what `id`
    /// failed with.
    pub(crate) fn hold(
        rank: usize,
        size: usize,
        address: &str,
        patience: Duration,
        id: impl FnOnce() -> Result<Vec<u8>, DistError>,
        on_loss: impl Fn(usize, Loss) + Send + Sync + 'static,
    ) -> Result<(Self, Vec<u8>), DistError> {
        let place = Place { rank, size, address, patience };
        let (lines, id) = match (rank, size) {
            (0, 1) => (Vec::new(), id()?),
            (0, _) => place.receive(id)?,
            _ => place.come()?,
        };
        let watch = Watch::begin(rank, lines, Box::new(on_loss)).map_err(|error| place.error(error.to_string()))?;
        Ok((Self { watch }, id))
    }

    /// Says farewell and waits until all have.
    ///
    /// # Errors
    /// [`DistError::Gone`] if one has died instead.
    pub(crate) fn leave(&self) -> Result<(), DistError> {
        self.watch.leave()
    }

    /// Tells the others that this rank ends all of them with this exit status.
    pub(crate) fn abort(&self, status: i32) {
        self.watch.abort(status);
    }
}

impl Drop for Meeting {
    /// Without a farewell before, the others learn that this rank is gone.
    fn drop(&mut self) {
        self.watch.close();
    }
}

/// Who meets, and where.
struct Place<'a> {
    rank: usize,
    size: usize,
    address: &'a str,
    patience: Duration,
}

impl Place<'_> {
    fn error(&self, why: impl Into<String>) -> DistError {
        DistError::Meeting { rank: self.rank, address: self.address.to_owned(), why: why.into() }
    }

    /// Host and port; an IPv6 address may have its brackets.
    fn host_and_port(&self) -> Result<(&str, u16), DistError> {
        let parts = self.address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port) = parts.ok_or_else(|| self.error("this is no host and port"))?;
        Ok((host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host), port))
    }

    /// Waits for all others, as rank 0, and gives them the id; their connections, by rank.
    fn receive(&self, id: impl FnOnce() -> Result<Vec<u8>, DistError>) -> Result<(Lines, Vec<u8>), DistError> {
        let listener = self.listen()?;
        let mut places: Vec<Option<TcpStream>> = (1..self.size).map(|_| None).collect();
        let id = self.wait_for_all(&listener, &mut places).and_then(|()| id());
        let answer = match &id {
            Ok(id) => Message::Id(id.clone()),
            Err(DistError::Meeting { why, .. }) => Message::Refused(why.clone()),
            Err(error) => Message::Refused(error.to_string()),
        };
        let lines: Vec<_> = (1..).zip(places).filter_map(|(rank, line)| Some((rank, line?))).collect();
        for (_, line) in &lines {
            // One that is gone is found out by the watch.
            let _ = answer.write(line);
        }
        Ok((lines, id?))
    }

    fn listen(&self) -> Result<TcpListener, DistError> {
        let (_, port) = self.host_and_port()?;
        let all: SocketAddr = (Ipv6Addr::UNSPECIFIED, port).into();
        let listener = match TcpListener::bind(all) {
            // No IPv6 on this machine.
            Err(error) if error.kind() != ErrorKind::AddrInUse => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)),
            listener => listener,
        };
        let listener = listener.and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        listener.map_err(|error| self.error(format!("rank 0 cannot listen on port {port}: {error}")))
    }

    fn wait_for_all(&self, listener: &TcpListener, places: &mut [Option<TcpStream>]) -> Result<(), DistError> {
        let (greeted, arrivals) = channel();
        let until = Instant::now() + self.patience;
        while places.iter().any(Option::is_none) {
            self.let_in(&arrivals, places)?;
            match listener.accept() {
                Ok((line, _)) => greet(line, greeted.clone()),
                // Nobody, or one that has turned back.
                Err(_) => std::thread::sleep(LOOK),
            }
            if Instant::now() >= until {
                self.let_in(&arrivals, places)?;
                let missing: Vec<_> =
                    (1..).zip(&*places).filter(|(_, line)| line.is_none()).map(|(rank, _)| rank).collect();
                if !missing.is_empty() {
                    return Err(self.error(format!("{} did not come within {:?}", ranks(&missing), self.patience)));
                }
            }
        }
        Ok(())
    }

    fn let_in(
        &self,
        arrivals: &Receiver<(Hello, TcpStream)>,
        places: &mut [Option<TcpStream>],
    ) -> Result<(), DistError> {
        for (hello, line) in arrivals.try_iter() {
            let refused = match places.get_mut((hello.rank as usize).wrapping_sub(1)) {
                _ if hello.version != message::VERSION => {
                    Some(format!("rank {} is another version of this program than rank 0", hello.rank))
                }
                _ if hello.size as usize != self.size => {
                    Some(format!("rank {} counts {} ranks, rank 0 counts {}", hello.rank, hello.size, self.size))
                }
                Some(place @ None) => {
                    *place = Some(line.try_clone().map_err(|error| self.error(error.to_string()))?);
                    None
                }
                Some(Some(_)) => Some(format!("rank {} has come twice", hello.rank)),
                None => Some(format!("one more process says that it is rank {} of {}", hello.rank, self.size)),
            };
            if let Some(why) = refused {
                let _ = Message::Refused(why.clone()).write(&line);
                return Err(self.error(why));
            }
        }
        Ok(())
    }

    /// Comes to rank 0, that may listen only later; the connection to it, and the id.
    fn come(&self) -> Result<(Lines, Vec<u8>), DistError> {
        let place = self.host_and_port()?;
        let until = Instant::now() + self.patience;
        loop {
            let why = match self.connect(place) {
                Ok(line) => match self.ask(&line)? {
                    Ok(id) => return Ok((vec![(0, line)], id)),
                    Err(why) => why,
                },
                Err(why) => why,
            };
            if Instant::now() + AGAIN >= until {
                return Err(self.error(format!("no rank 0 was there within {:?}: {why}", self.patience)));
            }
            std::thread::sleep(AGAIN);
        }
    }

    fn connect(&self, place: (&str, u16)) -> Result<TcpStream, String> {
        let mut why = "the host has no address".to_owned();
        for address in place.to_socket_addrs().map_err(|error| error.to_string())? {
            match TcpStream::connect_timeout(&address, self.patience.min(GREETING)) {
                // A port of the range that systems give to those who connect can be connected with itself.
                Ok(line) if line.local_addr().ok() == line.peer_addr().ok() => why = "nobody listens".into(),
                Ok(line) => return Ok(line),
                Err(error) => why = error.to_string(),
            }
        }
        Err(why)
    }

    /// Says who this is and waits for the id. The inner error may pass if it is tried again.
    fn ask(&self, line: &TcpStream) -> Result<Result<Vec<u8>, String>, DistError> {
        let hello = Hello { version: message::VERSION, rank: self.rank as u32, size: self.size as u32 };
        let patience = self.patience + GRACE;
        let said = prepare(line, patience).and_then(|()| hello.write(line)).and_then(|()| Message::read(line));
        match said {
            Ok(Message::Id(id)) => Ok(Ok(id)),
            Ok(Message::Refused(why)) => Err(self.error(why)),
            Ok(_) => Err(self.error("what listens there is not rank 0")),
            Err(error) if error.kind() == ErrorKind::InvalidData => Err(self.error("what listens there is not rank 0")),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(self.error(format!("what listens there has said nothing for {patience:?}")))
            }
            // It has hung up.
            Err(error) => Ok(Err(error.to_string())),
        }
    }
}

/// Hears out one that has come, on a thread of its own: a stranger that says nothing must not keep the others waiting.
fn greet(line: TcpStream, greeted: Sender<(Hello, TcpStream)>) {
    let hear = move || {
        let said =
            line.set_nonblocking(false).and_then(|()| prepare(&line, GREETING)).and_then(|()| Hello::read(&line));
        if let Ok(hello) = said {
            // Nobody listens any more once all have come.
            let _ = greeted.send((hello, line));
        }
    };
    // Without a thread it is as if it had not come: it tries again.
    let _ = std::thread::Builder::new().name("greeting".into()).spawn(hear);
}

fn prepare(line: &TcpStream, patience: Duration) -> std::io::Result<()> {
    line.set_nodelay(true)?;
    line.set_write_timeout(Some(WRITE))?;
    line.set_read_timeout(Some(patience))
}

fn ranks(ranks: &[usize]) -> String {
    let names: Vec<_> = ranks.iter().map(usize::to_string).collect();
    format!("rank{} {}", if ranks.len() == 1 { "" } else { "s" }, names.join(", "))
}
