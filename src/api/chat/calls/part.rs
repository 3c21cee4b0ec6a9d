//! What a model's text consists of, and the functions that it may call.

use serde_json::Value;

/// A piece of a model's text.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    Content(String),
    Reasoning(String),
    /// A call begins.
    Call {
        name: String,
        /// If the model's own form has one that must come back.
        id: Option<String>,
    },
    /// A piece of the arguments of the last call, which are JSON: as the model wrote it, or made from its own form.
    Arguments(String),
}

/// Parts in order.
#[derive(Debug, Default)]
pub struct Parts(pub Vec<Part>);

impl Parts {
    pub fn content(&mut self, text: String) {
        if !text.is_empty() {
            self.0.push(Part::Content(text));
        }
    }

    pub fn reasoning(&mut self, text: String) {
        if !text.is_empty() {
            self.0.push(Part::Reasoning(text));
        }
    }

    pub fn call(&mut self, name: &str, id: Option<String>) {
        let name = name.to_owned();
        self.0.push(Part::Call { name, id });
    }

    pub fn arguments(&mut self, text: impl Into<String>) {
        let text = text.into();
        if text.is_empty() {
            return;
        }
        if let Some(Part::Arguments(before)) = self.0.last_mut() {
            before.push_str(&text);
        } else {
            self.0.push(Part::Arguments(text));
        }
    }
}

/// The functions that may be called, each with the schema of its arguments.
#[derive(Debug)]
pub struct Functions(Vec<(String, Value)>);

impl Functions {
    pub fn new(tools: &[Value]) -> Self {
        let functions = tools.iter().filter_map(|tool| {
            let function = &tool["function"];
            Some((
                function["name"].as_str()?.to_owned(),
                function["parameters"].clone(),
            ))
        });
        Self(functions.collect())
    }

    pub fn contains(&self, name: &str) -> bool {
        self.parameters(name).is_some()
    }

    /// The schema of the function's arguments.
    pub fn parameters(&self, name: &str) -> Option<&Value> {
        let mut functions = self.0.iter();
        functions
            .find(|(known, _)| known == name)
            .map(|(_, schema)| schema)
    }
}

/// What a step through the text of a call led to.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// More text is needed.
    More,
    /// The call is complete.
    Over,
    /// It is not a call: this text, and what follows it, are text.
    Text(String),
}

/// How much text there will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    More,
    /// None: it was cut off.
    Cut,
    /// None: the model ended it.
    Ended,
}

impl Rest {
    pub fn is_none(self) -> bool {
        self != Self::More
    }
}
