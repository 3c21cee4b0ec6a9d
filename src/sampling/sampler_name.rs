//! The samplers that a request may name.

/// Makes [`SamplerName`] of the samplers, which are listed in the default order, each with llama-server's name. Those after
/// them are applied only if a request names them.
macro_rules! samplers {
    ($($name:ident = $text:literal,)+) => {
        /// A sampler.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum SamplerName {
            $($name,)+
        }

        impl SamplerName {
            /// All of them, first those of the default order.
            pub fn all() -> impl Iterator<Item = Self> {
                [$(Self::$name,)+].into_iter()
            }

            /// llama-server's name.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

samplers! {
    Penalties = "penalties",
    Dry = "dry",
    TopNSigma = "top_n_sigma",
    TopK = "top_k",
    TypicalP = "typ_p",
    TopP = "top_p",
    MinP = "min_p",
    Xtc = "xtc",
    Temperature = "temperature",
    Infill = "infill",
}

impl SamplerName {
    /// Those that are applied unless a request names others, in this order.
    pub fn default_order() -> impl Iterator<Item = Self> {
        Self::all().filter(|&sampler| sampler != Self::Infill)
    }

    /// Parses a name as it is in a request.
    pub fn read(name: &str) -> Option<Self> {
        Self::all().find(|sampler| sampler.as_str() == name || sampler.alias() == Some(name))
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
