#[derive(Debug, thiserror::Error)]
#[error("source")]
pub struct SourceError;
pub fn resolve(settings: &crate::config::Model) -> Result<std::path::PathBuf, SourceError> { Ok(settings.source.clone().into()) }
