use std::str::FromStr;
use std::time::Duration;

/// The operation that each client repeats.
#[derive(Clone, Copy)]
pub enum Operation {
    Read,
    Write,
    Batch,
    /// A write in ten operations, otherwise a read.
    Mixed,
}

/// The failure that an acknowledged write survives: `Normal` a crash of the process, `Full` a power cut.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    Normal,
    Full,
}

impl Durability {
    /// The value of `PRAGMA synchronous`.
    pub fn synchronous(self) -> &'static str {
        match self {
            Self::Normal => "NORMAL",
            Self::Full => "FULL",
        }
    }
}

/// A slice of the comparison, as a line of the protocol: `OPERATION CLIENTS DURABILITY SECONDS`.
#[derive(Clone, Copy)]
pub struct Case {
    pub operation: Operation,
    pub clients: usize,
    pub durability: Durability,
    pub time: Duration,
}

impl FromStr for Case {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let parse = || {
            let [operation, clients, durability, seconds] =
                line.split_whitespace().collect::<Vec<_>>().try_into().ok()?;
            Some(Self {
                operation: match operation {
                    "read" => Operation::Read,
                    "write" => Operation::Write,
                    "batch" => Operation::Batch,
                    "mixed" => Operation::Mixed,
                    _ => return None,
                },
                clients: clients.parse().ok()?,
                durability: match durability {
                    "NORMAL" => Durability::Normal,
                    "FULL" => Durability::Full,
                    _ => return None,
                },
                time: Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?,
            })
        };
        parse().ok_or_else(|| format!("not OPERATION CLIENTS DURABILITY SECONDS: {line:?}"))
    }
}
