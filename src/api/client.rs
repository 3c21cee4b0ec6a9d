//! Who sent a request.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

/// The sender of a request, and when it arrived.
#[derive(Debug, Clone)]
pub struct Client {
    /// By API key if there is one, else by address. Clients take turns in queues under this name.
    pub name: Arc<str>,
    pub arrived: Instant,
}

tokio::task_local! {
    /// The client whose request this task answers.
    static CLIENT: Arc<str>;
}

impl Client {
    /// Runs a future as this client: [`current`] returns its name there.
    pub async fn scope<F: Future>(name: Arc<str>, future: F) -> F::Output {
        CLIENT.scope(name, future).await
    }
}

/// The name of the client whose request this task answers.
pub fn current() -> Arc<str> {
    CLIENT
        .try_with(Arc::clone)
        .unwrap_or_else(|_| "unknown".into())
}

/// One address for all that a host may have: loopback has many, and an IPv6 host usually has a /64.
pub fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        address if address.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_address() {
        let check = |address: &str, expect: &str| {
            let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
            assert_eq!(neighbourhood(parse(address)), parse(expect));
        };
        check("127.0.0.1", "127.0.0.1");
        check("127.9.9.9", "127.0.0.1");
        check("::1", "127.0.0.1");
        check("::ffff:10.0.0.7", "10.0.0.7");
        check("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::");
    }
}
