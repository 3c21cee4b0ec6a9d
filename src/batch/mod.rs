//! `candor batch`: sends the requests in a file to servers, and appends their answers to another file.
//!
//! 1. [`input`] reads the file once, checks every line ([`request`]), and keeps only where each line is. [`beginning`] hashes
//!    how its prompt begins, and [`order`] puts lines that begin alike next to each other. A shard is a range of that order.
//! 2. [`output`] holds the answers ([`record`]), each a whole line; the lines that an earlier run answered are left out.
//!    [`state`] is a small file beside it with what must not change between two runs.
//! 3. [`run`](mod@run) starts the threads of [`dispatch`], which send lines to each [`server`]. [`work`] gives every server
//!    a range of the order, and a server that is done half of another's. [`contact`] asks a server which models it has, and
//!    [`origin`] refuses to mix the numbers of two models or bits classes. [`engine`] is a server of this process. [`patience`] says
//!    when it is of no use to go on.
//! 4. [`merge`](mod@merge) joins the outputs of all shards.

mod beginning;
mod contact;
mod dispatch;
mod engine;
mod failure;
mod input;
mod merge;
mod order;
mod origin;
mod output;
mod patience;
mod progress;
mod record;
mod request;
mod run;
mod server;
mod state;
mod work;

pub use failure::Failure;
pub use merge::{Merge, merge};
pub use progress::Summary;
pub use run::{Job, Servers, run};
