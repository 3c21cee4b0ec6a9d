//! The samplers that a request may name.

/// A sampler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SamplerName {
    Penalties,
    Dry,
    TopNSigma,
    TopK,
    TypicalP,
    TopP,
    MinP,
    Xtc,
    Temperature,
}

impl SamplerName {
    /// All of them, in the default order.
    pub fn all() -> impl Iterator<Item = Self> {
        [
            Self::Penalties,
            Self::Dry,
            Self::TopNSigma,
            Self::TopK,
            Self::TypicalP,
            Self::TopP,
            Self::MinP,
            Self::Xtc,
            Self::Temperature,
        ]
        .into_iter()
    }

    /// Parses a name as it is in a request.
    pub fn read(name: &str) -> Option<Self> {
        Self::all().find(|sampler| sampler.as_str() == name || sampler.alias() == Some(name))
    }

    /// llama-server's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Penalties => "penalties",
            Self::Dry => "dry",
            Self::TopNSigma => "top_n_sigma",
            Self::TopK => "top_k",
            Self::TypicalP => "typ_p",
            Self::TopP => "top_p",
            Self::MinP => "min_p",
            Self::Xtc => "xtc",
            Self::Temperature => "temperature",
        }
    }

    /// Whether it changes the logits of single tokens, independently of the others, and removes no candidate. Samplers of
    /// that kind that come first are applied before the constraint.
    pub(super) fn changes_single_logits(self) -> bool {
        matches!(self, Self::Penalties | Self::Dry)
    }

    fn alias(self) -> Option<&'static str> {
        (self == Self::TypicalP).then_some("typical_p")
    }
}
