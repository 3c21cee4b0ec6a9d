//! What computed the answers: weights, adapters, bits class. An output has one origin for each model that its requests name,
//! so that its numbers can be compared.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::server::Reply;

/// What computes the answers of one model of a server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// Identifies the weights. `None` if a server that is not a Candor does not say it.
    pub fingerprint: Option<String>,
    /// The adapters that are loaded, with their weights' fingerprints and the scales of requests that do not set them.
    pub adapters: Value,
    /// Names how numbers are rounded; `None`, likewise.
    pub bits_class: Option<String>,
    /// The same for requests with `"exact": true`; `None` until one was answered.
    pub exact_bits_class: Option<String>,
}

/// The origin of every model, by its name in requests; the name of the default model is empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Origins {
    models: BTreeMap<String, Origin>,
    /// Whether there may be answers of other bits classes, too.
    pub are_mixed: bool,
}

/// What an answer says of what computed it.
#[derive(Debug)]
pub struct Signature {
    /// `None`: answers with embeddings do not say it.
    fingerprint: Option<String>,
    bits_class: Option<String>,
}

impl Signature {
    pub fn of(reply: &Reply) -> Self {
        #[derive(Deserialize)]
        struct Answer {
            system_fingerprint: Option<String>,
        }
        let answer: Option<Answer> = serde_json::from_slice(&reply.body).ok();
        Self {
            fingerprint: answer.and_then(|it| it.system_fingerprint),
            bits_class: reply.bits_class.clone(),
        }
    }
}

impl Origins {
    pub fn new(are_mixed: bool) -> Self {
        Self {
            are_mixed,
            ..Self::default()
        }
    }

    /// Compares what a server has with what the answers have so far, and adds what they do not have yet. The error says what
    /// differs.
    pub fn admit(&mut self, models: &BTreeMap<String, Origin>) -> Result<(), String> {
        for (name, new) in models {
            let Some(old) = self.models.get(name) else {
                continue;
            };
            let shown = shown(name);
            let differs = |what: &str, new: &dyn std::fmt::Display, old: &dyn std::fmt::Display| {
                Err(format!(
                    "{shown} has {what} {new}, but other answers come from {old}"
                ))
            };
            let said = |one: &Option<String>| one.clone().unwrap_or("unknown".to_owned());
            if new.fingerprint != old.fingerprint {
                let (new, old) = (said(&new.fingerprint), said(&old.fingerprint));
                return differs("the weights", &new, &old);
            }
            if new.adapters != old.adapters {
                return differs("the adapters", &new.adapters, &old.adapters);
            }
            if new.bits_class != old.bits_class && !self.are_mixed {
                let (new, old) = (said(&new.bits_class), said(&old.bits_class));
                return Err(mixed(&shown, &new, &old));
            }
            if new.bits_class.is_none() && !self.are_mixed {
                return Err(unknown_class(&shown));
            }
        }
        for (name, new) in models {
            if new.bits_class.is_none() && !self.are_mixed {
                return Err(unknown_class(&shown(name)));
            }
            self.models.entry(name.clone()).or_insert(new.clone());
        }
        Ok(())
    }

    /// Checks an answer with status 200: the server may have been replaced, or be one of several behind a router. The class
    /// of exact mode is that of its first answer.
    pub fn check(
        &mut self,
        model: &str,
        is_exact: bool,
        signature: &Signature,
    ) -> Result<(), String> {
        let Some(origin) = self.models.get_mut(model) else {
            return Ok(());
        };
        let shown = shown(model);
        if let Some(fingerprint) = &signature.fingerprint
            && let Some(weights) = &origin.fingerprint
            && fingerprint.split('-').next() != Some(weights)
        {
            return Err(format!(
                "an answer of {shown} has the fingerprint {fingerprint}, but other answers come from the weights {weights}"
            ));
        }
        if self.are_mixed {
            return Ok(());
        }
        let expected = match is_exact {
            true => &mut origin.exact_bits_class,
            false => &mut origin.bits_class,
        };
        match (&signature.bits_class, &*expected) {
            (Some(new), Some(old)) if new == old => Ok(()),
            (Some(new), None) => {
                *expected = Some(new.clone());
                Ok(())
            }
            (Some(new), Some(old)) => Err(mixed(&shown, new, old)),
            (None, _) => Err(format!("an answer of {shown} does not say its bits class")),
        }
    }

    /// Adds those of another shard, if all numbers of both may be compared.
    pub fn join(&mut self, other: &Self) -> Result<(), String> {
        self.admit(&other.models)?;
        for (name, one) in &mut self.models {
            let other = other.models.get(name);
            let Some(new) = other.and_then(|it| it.exact_bits_class.as_ref()) else {
                continue;
            };
            let old = one.exact_bits_class.get_or_insert_with(|| new.clone());
            if old != new && !self.are_mixed {
                return Err(format!(
                    "{} has the bits class {new} in exact mode, but other answers have {old}",
                    shown(name)
                ));
            }
        }
        Ok(())
    }
}

fn mixed(model: &str, new: &str, old: &str) -> String {
    format!(
        "{model} has the bits class {new}, but other answers have {old}: their numbers differ. With --allow-mixed they are \
         mixed, and each line says its class"
    )
}

fn unknown_class(model: &str) -> String {
    format!("{model} has no bits class: the server is not a Candor, or an old one")
}

/// A model of a server in a message.
pub fn shown(model: &str) -> String {
    match model {
        "" => "its default model".to_owned(),
        name => format!("its model `{name}`"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn origin(weights: &str, class: &str) -> Origin {
        Origin {
            fingerprint: Some(weights.to_owned()),
            bits_class: Some(class.to_owned()),
            ..Origin::default()
        }
    }

    fn one(name: &str, origin: Origin) -> BTreeMap<String, Origin> {
        BTreeMap::from([(name.to_owned(), origin)])
    }

    fn admitted() -> Origins {
        let mut origins = Origins::default();
        origins.admit(&one("", origin("w1", "avx2-1"))).unwrap();
        origins
    }

    #[test]
    fn servers_must_have_the_same_origin() {
        let check = |mut origins: Origins, new: Origin, expect: &str| {
            let result = origins.admit(&one("", new));
            let why = result.err().unwrap_or_default();
            assert!(
                why.contains(expect) && why.is_empty() == expect.is_empty(),
                "{why}"
            );
        };
        check(admitted(), origin("w1", "avx2-1"), "");
        check(admitted(), origin("w2", "avx2-1"), "the weights w2");
        check(admitted(), origin("w1", "amx-1"), "the bits class amx-1");
        let adapted = |fingerprint: &str| Origin {
            adapters: json!([{"id": 0, "name": "a", "scale": 1.0, "fingerprint": fingerprint}]),
            ..origin("w1", "avx2-1")
        };
        check(admitted(), adapted("a1"), "the adapters");
        let mut with_adapter = Origins::default();
        with_adapter.admit(&one("", adapted("a1"))).unwrap();
        check(with_adapter.clone(), adapted("a1"), "");
        check(with_adapter, adapted("a2"), "the adapters");
        let unsaid = Origin::default();
        check(Origins::default(), unsaid.clone(), "has no bits class");
        let mixed = |origins: Origins| Origins {
            are_mixed: true,
            ..origins
        };
        check(mixed(admitted()), origin("w1", "amx-1"), "");
        check(mixed(admitted()), origin("w2", "amx-1"), "the weights w2");
        check(mixed(Origins::default()), unsaid, "");
        // Another model has an origin of its own.
        let mut origins = admitted();
        origins.admit(&one("b", origin("w3", "avx2-1"))).unwrap();
        assert_eq!(origins.models.len(), 2);
    }

    #[test]
    fn answers_must_have_the_origin_of_their_server() {
        let reply = |class: Option<&str>, fingerprint: &str| Reply {
            status: 200,
            request_id: String::new(),
            bits_class: class.map(str::to_owned),
            retry_after: None,
            body: json!({"system_fingerprint": fingerprint})
                .to_string()
                .into(),
        };
        let fine = "w1-llama.cpp-1-exact-fa-off-avx2-1-lora-abx0.5";
        let mut origins = admitted();
        let mut check = |is_exact: bool, reply: Reply, expect: &str| {
            let result = origins.check("", is_exact, &Signature::of(&reply));
            let why = result.err().unwrap_or_default();
            assert!(
                why.contains(expect) && why.is_empty() == expect.is_empty(),
                "{why}"
            );
        };
        check(false, reply(Some("avx2-1"), fine), "");
        check(false, reply(Some("avx2-2"), fine), "the bits class avx2-2");
        check(false, reply(None, fine), "does not say its bits class");
        check(
            false,
            reply(Some("avx2-1"), "w2-llama.cpp"),
            "the weights w1",
        );
        // The class of exact mode is found by its first answer.
        check(true, reply(Some("avx2-9"), fine), "");
        check(true, reply(Some("avx2-9"), fine), "");
        check(true, reply(Some("avx2-1"), fine), "the bits class avx2-1");
    }

    #[test]
    fn origins_of_shards_are_compared() {
        assert_eq!(admitted().join(&admitted()), Ok(()));
        let mut other = Origins::default();
        other.admit(&one("", origin("w1", "amx-1"))).unwrap();
        assert!(admitted().join(&other).is_err());
        let exact = |class: &str| {
            let mut origins = admitted();
            let origin = origins.models.get_mut("").unwrap();
            origin.exact_bits_class = Some(class.to_owned());
            origins
        };
        assert_eq!(exact("avx2-9").join(&admitted()), Ok(()));
        assert!(exact("avx2-9").join(&exact("avx2-8")).is_err());
        // The first shard may have had no lines, or none of exact mode.
        let mut joined = Origins::default();
        assert_eq!(joined.join(&admitted()), Ok(()));
        assert!(joined.join(&other).is_err());
        assert_eq!(joined.join(&exact("avx2-9")), Ok(()));
        assert!(joined.join(&exact("avx2-8")).is_err());
    }
}
