//! How a request's prompt begins, as hashes of its first 64, 96, 144, … bytes. Where the hashes of two requests are equal,
//! they have so much of their prompts in common.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::request::Request;

/// The lengths, in bytes; each is half as long again as the one before. So at most a third of what two prompts have in common
/// goes unnoticed.
const LENGTHS: [usize; 16] = [
    64, 96, 144, 216, 324, 486, 729, 1094, 1641, 2461, 3691, 5537, 8305, 12458, 18687, 28031,
];

/// The hashes, the shortest beginning first. A prompt that is shorter than a length counts as a whole: there it equals only
/// the same prompt.
pub type Beginning = [u32; LENGTHS.len()];

/// The fields with the prompt, in the order in which they reach the model.
const PROMPT_FIELDS: [&str; 7] = [
    "tools", "messages", "prompt", "stem", "items", "text", "input",
];

/// The beginning of a request.
pub fn beginning(request: &Request) -> Beginning {
    let mut reader = Reader {
        hash: Sha256::new(),
        bytes: 0,
        found: 0,
        beginning: Beginning::default(),
    };
    // Cells of one model or adapter are of no use to another.
    for field in ["model", "lora"] {
        if let Some(value) = request.body.get(field) {
            reader.hash.update(field);
            reader.hash.update(value.to_string());
        }
    }
    for field in PROMPT_FIELDS {
        if let Some(value) = request.body.get(field) {
            reader.read(value);
        }
    }
    reader.finish()
}

struct Reader {
    hash: Sha256,
    /// Bytes of the prompt read so far.
    bytes: usize,
    /// How many lengths have been reached.
    found: usize,
    beginning: Beginning,
}

impl Reader {
    fn read(&mut self, value: &Value) {
        if self.found == LENGTHS.len() {
            return;
        }
        match value {
            Value::String(text) => self.read_bytes(text.as_bytes()),
            // A token id; with its comma it has about as many bytes as a token's text.
            Value::Number(id) => self.read_bytes(format!("{id},").as_bytes()),
            Value::Array(items) => items.iter().for_each(|item| self.read(item)),
            Value::Object(fields) => fields.values().for_each(|value| self.read(value)),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn read_bytes(&mut self, mut bytes: &[u8]) {
        while let Some(&length) = LENGTHS.get(self.found) {
            let missing = length - self.bytes;
            let (head, rest) = bytes.split_at(bytes.len().min(missing));
            self.hash.update(head);
            self.bytes += head.len();
            if self.bytes < length {
                return;
            }
            self.beginning[self.found] = short(self.hash.clone());
            self.found += 1;
            bytes = rest;
        }
    }

    fn finish(mut self) -> Beginning {
        self.hash.update("the end");
        let whole = short(self.hash);
        self.beginning[self.found..].fill(whole);
        self.beginning
    }
}

/// A collision costs a little time, and nothing else.
fn short(hash: Sha256) -> u32 {
    let digest = hash.finalize();
    u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// How many lengths two beginnings have in common.
    fn shared(one: &Beginning, other: &Beginning) -> usize {
        one.iter().zip(other).take_while(|(a, b)| a == b).count()
    }

    fn of(body: Value) -> Beginning {
        let line =
            json!({"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body});
        beginning(&Request::parse(line.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn prompts_have_their_common_beginning_in_common() {
        let check = |one: Value, other: Value, expect: usize| {
            assert_eq!(
                shared(&of(one.clone()), &of(other.clone())),
                expect,
                "{one} {other}"
            );
        };
        let stem = "x".repeat(500);
        let prompt = |end: &str| json!({"prompt": format!("{stem}{end}")});
        // 64, 96, 144, 216, 324, 486.
        check(prompt("one"), prompt("two"), 6);
        check(prompt("same"), prompt("same"), LENGTHS.len());
        check(json!({"prompt": "short"}), json!({"prompt": "shorter"}), 0);
        check(
            json!({"prompt": stem, "model": "a"}),
            json!({"prompt": stem, "model": "b"}),
            0,
        );
        check(
            json!({"prompt": stem, "lora": [{"id": 0}]}),
            json!({"prompt": stem}),
            0,
        );
        // What changes no cell changes nothing.
        check(
            json!({"prompt": stem, "seed": 1}),
            json!({"prompt": stem, "seed": 2}),
            LENGTHS.len(),
        );
        let ids: Vec<u32> = (1000..1100).collect();
        let with = |last: u32| {
            let prompt = [&ids[..], &[last]].concat();
            json!({"prompt": prompt})
        };
        check(with(1), with(2), 6);
        let chat = |question: &str| {
            json!({"messages": [
                {"role": "system", "content": "y".repeat(100)},
                {"role": "user", "content": question}
            ]})
        };
        check(chat("one"), chat("two"), 2);
        let score = |choice: &str| json!({"stem": stem, "choices": [choice]});
        check(score(" a"), score(" b"), LENGTHS.len());
    }
}
