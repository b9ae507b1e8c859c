//! How this process was started, and with whom.

use std::str::FromStr;
use std::sync::Arc;

use crate::error::DistError;
use crate::group::ProcessGroup;
use crate::single::Single;

/// What carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Nothing: each process is alone.
    Single,
    /// MPI of the system.
    Mpi,
    /// NCCL between GPUs.
    Nccl,
}

impl FromStr for Backend {
    type Err = DistError;

    fn from_str(name: &str) -> Result<Self, DistError> {
        match name {
            "none" => Ok(Self::Single),
            "mpi" => Ok(Self::Mpi),
            "nccl" => Ok(Self::Nccl),
            _ => Err(DistError::Launch { what: format!("{name} is no backend, expected none, mpi or nccl") }),
        }
    }
}

/// What a launcher left in the environment of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Launch {
    /// Nothing: started by hand.
    Alone,
    /// `mpirun`, or `srun` with PMI: MPI knows the rest.
    Mpi {
        /// This process, if the launcher says.
        rank: Option<usize>,
        /// All of them, if the launcher says.
        size: Option<usize>,
    },
    /// `RANK`, `WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT`, as torchrun sets them.
    Meeting {
        /// This process.
        rank: usize,
        /// All of them.
        size: usize,
        /// Which of the processes on its machine this is: which GPU is its own.
        local_rank: usize,
        /// Where they meet: host and port, the next one if torchrun keeps its own.
        address: String,
    },
}

/// Rank and size as launchers of MPI name them: Open MPI, and what speaks PMI (MPICH, Intel MPI, Slurm's `srun --mpi=pmi2`) or PMIx.
/// PMIx says it not; Slurm, which often speaks it, does.
const MPI_VARIABLES: [(&str, &str); 3] =
    [("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"), ("PMIX_RANK", "SLURM_STEP_NUM_TASKS")];

/// torchrun's port, where none is given.
const PORT: &str = "29500";

/// `True` where torchrun itself listens on its port, for PyTorch.
const TAKEN: &str = "TORCHELASTIC_USE_AGENT_STORE";

impl Launch {
    /// As `variable` says, which is the environment.
    ///
    /// # Errors
    /// [`DistError::Variable`] if one is there that makes no sense.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Self, DistError> {
        let number = |name: &'static str| -> Result<Option<usize>, DistError> {
            let parse = |text: String| {
                let wrong = DistError::Variable { name, found: text.clone(), expected: "a number".into() };
                text.trim().parse().map_err(|_| wrong)
            };
            variable(name).map(parse).transpose()
        };
        for (rank, size) in MPI_VARIABLES {
            if let Some(rank) = number(rank)? {
                return Ok(Self::Mpi { rank: Some(rank), size: number(size)? });
            }
        }
        let Some(size) = number("WORLD_SIZE")? else { return Ok(Self::Alone) };
        let needed = |name: &'static str, expected: &str| DistError::Variable {
            name,
            found: "unset".into(),
            expected: format!("{expected}, as WORLD_SIZE is set"),
        };
        let rank = number("RANK")?.ok_or_else(|| needed("RANK", "the number of this process"))?;
        if size == 0 || rank >= size {
            let expected = format!("from 0 to WORLD_SIZE - 1, which is {}", size as i64 - 1);
            return Err(DistError::Variable { name: "RANK", found: rank.to_string(), expected });
        }
        let host = variable("MASTER_ADDR").ok_or_else(|| needed("MASTER_ADDR", "the machine of rank 0"))?;
        let port = variable("MASTER_PORT").unwrap_or_else(|| PORT.into());
        let Ok(mut port) = port.parse::<u16>() else {
            return Err(DistError::Variable { name: "MASTER_PORT", found: port, expected: "a port".into() });
        };
        if variable(TAKEN).as_deref() == Some("True") {
            port = port.checked_add(1).unwrap_or(port - 1);
        }
        let local_rank = number("LOCAL_RANK")?.unwrap_or(rank);
        Ok(Self::Meeting { rank, size, local_rank, address: format!("{host}:{port}") })
    }

    /// That of this process.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn found() -> Result<Self, DistError> {
        Self::of(|name| std::env::var(name).ok())
    }

    /// Which process this is, as far as the launcher says.
    pub fn rank(&self) -> usize {
        match self {
            Self::Alone => 0,
            Self::Mpi { rank, .. } => rank.unwrap_or(0),
            Self::Meeting { rank, .. } => *rank,
        }
    }

    /// How many there are, as far as the launcher says.
    pub fn size(&self) -> usize {
        match self {
            Self::Alone => 1,
            Self::Mpi { size, .. } => size.unwrap_or(1),
            Self::Meeting { size, .. } => *size,
        }
    }

    fn backend(&self) -> Backend {
        match self {
            Self::Alone => Backend::Single,
            Self::Mpi { .. } => Backend::Mpi,
            Self::Meeting { .. } => Backend::Nccl,
        }
    }
}

/// Joins the processes that were started together with this one, over `backend` or over what the launcher is for.
///
/// # Errors
/// [`DistError::Launch`] if this build has not the backend: processes that know nothing of each other must not believe that they are
/// alone; [`DistError::Variable`] and [`DistError::Meeting`] if they cannot find each other.
pub fn join(backend: Option<Backend>) -> Result<Arc<dyn ProcessGroup>, DistError> {
    let launch = Launch::found()?;
    match backend.unwrap_or_else(|| launch.backend()) {
        Backend::Single => Ok(Arc::new(Single)),
        Backend::Mpi => mpi(&launch),
        Backend::Nccl => nccl(&launch),
    }
}

#[cfg(feature = "mpi")]
fn mpi(launch: &Launch) -> Result<Arc<dyn ProcessGroup>, DistError> {
    let group = crate::mpi::Mpi::join()?;
    match launch {
        Launch::Mpi { size: Some(size), .. } if *size != group.size() => {
            let found = group.size();
            group.finish()?;
            let what = format!(
                "the launcher started {size} processes, but MPI knows of {found}: it is not the launcher of the MPI that this program \
                 was built with"
            );
            Err(DistError::Launch { what })
        }
        _ => Ok(Arc::new(group)),
    }
}

#[cfg(not(feature = "mpi"))]
fn mpi(launch: &Launch) -> Result<Arc<dyn ProcessGroup>, DistError> {
    match launch {
        // Alone under a launcher: one process needs no MPI.
        Launch::Mpi { size: Some(1), .. } => Ok(Arc::new(Single)),
        _ => Err(without("MPI", "mpi", launch)),
    }
}

#[cfg(feature = "nccl")]
fn nccl(launch: &Launch) -> Result<Arc<dyn ProcessGroup>, DistError> {
    Ok(Arc::new(crate::nccl::Nccl::join(launch)?))
}

#[cfg(not(feature = "nccl"))]
fn nccl(launch: &Launch) -> Result<Arc<dyn ProcessGroup>, DistError> {
    match launch {
        Launch::Meeting { size: 1, .. } => Ok(Arc::new(Single)),
        _ => Err(without("NCCL", "nccl", launch)),
    }
}

#[cfg(not(all(feature = "mpi", feature = "nccl")))]
fn without(what: &str, feature: &str, launch: &Launch) -> DistError {
    let (rank, size) = (launch.rank(), launch.size());
    let started = if size > 1 { format!("this is process {rank} of {size}, but ") } else { String::new() };
    DistError::Launch {
        what: format!(
            "{started}this build has no {what}: build it with --features {feature}, or start one process (--dist none: each alone)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Launch, DistError> {
        Launch::of(|name| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn launchers_are_known_by_what_they_set() {
        assert_eq!(of(&[]).unwrap(), Launch::Alone);
        // A shell on a Slurm node is no job of many processes.
        assert_eq!(of(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4"), ("RANK", "1")]).unwrap(), Launch::Alone);
        let open_mpi = of(&[("OMPI_COMM_WORLD_RANK", "2"), ("OMPI_COMM_WORLD_SIZE", "4")]).unwrap();
        assert_eq!(open_mpi, Launch::Mpi { rank: Some(2), size: Some(4) });
        assert_eq!(of(&[("PMIX_RANK", "3")]).unwrap(), Launch::Mpi { rank: Some(3), size: None });
        let srun = of(&[("PMIX_RANK", "0"), ("SLURM_STEP_NUM_TASKS", "1")]).unwrap();
        assert_eq!(srun, Launch::Mpi { rank: Some(0), size: Some(1) });
        let torchrun =
            of(&[("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "node7"), ("LOCAL_RANK", "0")]).unwrap();
        let address = "node7:29500".to_owned();
        assert_eq!(torchrun, Launch::Meeting { rank: 1, size: 2, local_rank: 0, address });
        assert_eq!((torchrun.rank(), torchrun.size()), (1, 2));
        let port = |port, taken| {
            let variables =
                [("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "::1"), ("MASTER_PORT", port), (TAKEN, taken)];
            match of(&variables).unwrap() {
                Launch::Meeting { address, .. } => address,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(port("4000", "False"), "::1:4000");
        assert_eq!([port("4000", "True"), port("65535", "True")], ["::1:4001", "::1:65534"]);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let message = |variables: &[(&str, &str)]| of(variables).unwrap_err().to_string();
        let both = [("WORLD_SIZE", "2"), ("MASTER_ADDR", "here")];
        assert!(message(&both).contains("RANK is unset, expected the number of this process, as WORLD_SIZE is set"));
        let too_large = [both[0], both[1], ("RANK", "2")];
        assert!(message(&too_large).contains("RANK is 2, expected from 0 to WORLD_SIZE - 1, which is 1"));
        assert!(message(&[("RANK", "0"), both[0]]).contains("MASTER_ADDR is unset, expected the machine of rank 0"));
        assert!(message(&[("PMI_RANK", "x")]).contains("PMI_RANK is x, expected a number"));
        let port = [both[0], both[1], ("RANK", "1"), ("MASTER_PORT", "99999")];
        assert!(message(&port).contains("MASTER_PORT is 99999, expected a port"));
        assert!("tcp".parse::<Backend>().unwrap_err().to_string().contains("expected none, mpi or nccl"));
    }
}
