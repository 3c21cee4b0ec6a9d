//! The HTTP client, set up once for all that ask other servers: downloads, `candor health`, `candor verify`, traces.

use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::typestate::AgentScope;

/// A client with these certificates and proxies of the environment. An answer with an error status is an answer, too.
pub fn client(tls: TlsConfig) -> ConfigBuilder<AgentScope> {
    Agent::config_builder()
        .tls_config(tls)
        .user_agent(concat!("candor/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
}

/// A client for a Candor server, which is asked directly. It trusts what the machine trusts; without `checks_certificate`
/// it takes any certificate.
pub fn for_candor(checks_certificate: bool) -> ConfigBuilder<AgentScope> {
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .disable_verification(!checks_certificate)
        .build();
    client(tls).proxy(None)
}
