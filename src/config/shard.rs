//! A shard of a batch, as in `--shard 2/8`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One of several parts of an input, which are sent by different processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Shard {
    /// From 0.
    pub index: usize,
    /// How many there are.
    pub of: usize,
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/');
        let numbers = numbers.and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
        match numbers {
            Some((index, of)) if index < of => Ok(Self { index, of }),
            Some((_, of)) if of > 0 => {
                Err(format!("the {of} shards are 0/{of} to {}/{of}", of - 1))
            }
            _ => Err("expected I/N, from 0/N to (N-1)/N, as in 2/8".to_owned()),
        }
    }
}

impl TryFrom<String> for Shard {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Shard> for String {
    fn from(shard: Shard) -> Self {
        shard.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_count_from_zero() {
        let check = |text: &str, expect: Result<(usize, usize), &str>| {
            let got: Result<Shard, String> = text.parse();
            match (got, expect) {
                (Ok(shard), Ok((index, of))) => {
                    assert_eq!(shard, Shard { index, of });
                    assert_eq!(shard.to_string(), text);
                }
                (Err(why), Err(expect)) => assert!(why.contains(expect), "{why}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        };
        check("0/1", Ok((0, 1)));
        check("7/8", Ok((7, 8)));
        check("8/8", Err("0/8 to 7/8"));
        check("0/0", Err("expected I/N"));
        check("1", Err("expected I/N"));
        check("a/b", Err("expected I/N"));
        check("-1/2", Err("expected I/N"));
    }
}
