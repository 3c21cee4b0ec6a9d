//! The common configuration of HTTP clients: for downloads, `candor health`, `candor verify`,
//! `candor batch` and traces.

use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::typestate::AgentScope;

/// A client with these certificates and the proxies of the environment. An error status is not an error.
pub fn client(tls: TlsConfig) -> ConfigBuilder<AgentScope> {
    Agent::config_builder()
        .tls_config(tls)
        .user_agent(concat!("candor/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
}

/// A client for a Candor server, without proxies. It trusts the machine's certificates, or any certificate without
/// `checks_certificate`.
pub fn for_candor(checks_certificate: bool) -> ConfigBuilder<AgentScope> {
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .disable_verification(!checks_certificate)
        .build();
    client(tls).proxy(None)
}
