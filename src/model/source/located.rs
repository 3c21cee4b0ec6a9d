//! Where a model's file is, as far as that is known without a request.

use std::path::PathBuf;

/// Where a model's file is.
#[derive(Debug, PartialEq, Eq)]
pub enum Located {
    /// On this machine.
    Local {
        /// The file that llama.cpp opens.
        path: PathBuf,
        /// Whether its content has the hash that its publisher names.
        verified: bool,
    },
    /// To be downloaded.
    Remote(Remote),
}

/// A model that would be downloaded.
#[derive(Debug, PartialEq, Eq)]
pub struct Remote {
    pub what: String,
    /// The address of the index or of the hub.
    pub from: String,
    /// `None`: only the server knows.
    pub bytes: Option<u64>,
    /// Why the file in the cache, if there is one, is of no use.
    pub broken: Option<String>,
    /// Whether it comes from the hub.
    pub on_hub: bool,
}
