//! How a text's vectors become one embedding.

/// How the vectors of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first one, of the token that encoders put before a text.
    Cls,
    /// The last one.
    Last,
}

/// The pooling in a model's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedPooling {
    Nothing,
    /// For rerankers: how relevant one text is to another.
    Ranks,
    Pools(Pooling),
}
