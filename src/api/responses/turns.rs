//! The messages of a chat, made from the items of a conversation. What an assistant thought, said and called in one turn are
//! items of their own, but one message.

use serde_json::{Map, Value, json};

use crate::api::chat::name_reasoning;

/// The messages so far.
#[derive(Debug, Default)]
pub struct Turns {
    messages: Vec<Value>,
    /// The assistant's message, while items may join it.
    open: Option<Answer>,
}

/// A message of the assistant.
#[derive(Debug, Default)]
struct Answer {
    content: Option<Value>,
    reasoning: Option<String>,
    calls: Vec<Value>,
}

impl Turns {
    pub fn message(&mut self, role: &str, content: Value) {
        if role != "assistant" {
            return self.push(json!({"role": role, "content": content}));
        }
        self.open_unless(|answer| answer.content.is_some()).content = Some(content);
    }

    pub fn reasoning(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let has_said = |answer: &Answer| answer.content.is_some() || !answer.calls.is_empty();
        match &mut self.open_unless(has_said).reasoning {
            Some(before) => {
                before.push('\n');
                before.push_str(text);
            }
            none => *none = Some(text.to_owned()),
        }
    }

    pub fn call(&mut self, id: &str, name: &str, arguments: &str) {
        let function = json!({"name": name, "arguments": arguments});
        let call = json!({"id": id, "type": "function", "function": function});
        self.open_unless(|_| false).calls.push(call);
    }

    pub fn result(&mut self, id: &str, name: Option<String>, output: Value) {
        let mut message = json!({"role": "tool", "tool_call_id": id, "content": output});
        if let Some(name) = name {
            message["name"] = name.into();
        }
        self.push(message);
    }

    pub fn into_messages(mut self) -> Vec<Value> {
        self.close();
        self.messages
    }

    /// The assistant's message; a new one if this holds of the last.
    fn open_unless(&mut self, is_over: impl FnOnce(&Answer) -> bool) -> &mut Answer {
        if self.open.as_ref().is_some_and(is_over) {
            self.close();
        }
        self.open.get_or_insert_default()
    }

    fn push(&mut self, message: Value) {
        self.close();
        self.messages.push(message);
    }

    fn close(&mut self) {
        self.messages
            .extend(self.open.take().map(Answer::into_message));
    }
}

impl Answer {
    fn into_message(self) -> Value {
        let mut message = Map::new();
        message.insert("role".to_owned(), "assistant".into());
        if let Some(content) = self.content {
            message.insert("content".to_owned(), content);
        }
        if let Some(reasoning) = self.reasoning {
            message.insert("reasoning_content".to_owned(), reasoning.into());
        }
        if !self.calls.is_empty() {
            message.insert("tool_calls".to_owned(), self.calls.into());
        }
        name_reasoning(&mut message);
        message.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_one_message() {
        let mut turns = Turns::default();
        turns.message("user", "What is the weather?".into());
        turns.reasoning("Two");
        turns.reasoning("cities.");
        turns.message("assistant", "I look.".into());
        turns.call("1", "weather", "{}");
        turns.call("2", "weather", "");
        turns.result("1", None, "Rain".into());
        turns.result("2", Some("weather".to_owned()), "Sun".into());
        turns.message("assistant", "Rain".into());
        turns.message("assistant", "Sun".into());
        turns.call("3", "end", "{}");
        turns.reasoning("");
        turns.reasoning("Done.");
        let call = |id: &str, name: &str, arguments: &str| {
            let function = json!({"name": name, "arguments": arguments});
            json!({"id": id, "type": "function", "function": function})
        };
        let thought = "Two\ncities.";
        assert_eq!(
            Value::from(turns.into_messages()),
            json!([
                {"role": "user", "content": "What is the weather?"},
                {"role": "assistant", "content": "I look.",
                 "reasoning_content": thought, "reasoning": thought, "thinking": thought,
                 "tool_calls": [call("1", "weather", "{}"), call("2", "weather", "")]},
                {"role": "tool", "tool_call_id": "1", "content": "Rain"},
                {"role": "tool", "tool_call_id": "2", "content": "Sun", "name": "weather"},
                {"role": "assistant", "content": "Rain"},
                {"role": "assistant", "content": "Sun", "tool_calls": [call("3", "end", "{}")]},
                {"role": "assistant", "reasoning_content": "Done.", "reasoning": "Done.", "thinking": "Done."},
            ])
        );
    }

    /// Its cost grows with its length, not with the square of it.
    #[test]
    fn reasoning_in_many_items_is_copied_a_few_times() {
        let mut turns = Turns::default();
        let mut sizes = std::collections::HashSet::new();
        for _ in 0..10_000 {
            turns.reasoning("Hm.");
            let reasoning = turns.open.as_ref().and_then(|it| it.reasoning.as_ref());
            sizes.insert(reasoning.map(String::capacity));
        }
        assert!(sizes.len() < 100, "{}", sizes.len());
    }

    #[test]
    fn a_text_after_a_call_is_of_the_same_turn() {
        let mut turns = Turns::default();
        turns.call("1", "f", "{}");
        turns.message("assistant", "I called f.".into());
        turns.result("1", None, "2".into());
        let messages = turns.into_messages();
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[0]["content"], "I called f.");
        assert_eq!(messages[0]["tool_calls"][0]["id"], "1");
    }
}
