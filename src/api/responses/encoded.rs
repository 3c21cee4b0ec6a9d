//! `encrypted_content` of reasoning. Clients that keep no state on a server send back nothing else of it. This server hides
//! nothing from them, so it is the text in base64.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

pub fn encode(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

/// `None`: it was not encoded here.
pub fn decode(encoded: &str) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(encoded).ok()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_here_can_be_decoded() {
        let text = "7 is odd. — “Ja”";
        assert_eq!(decode(&encode(text)).as_deref(), Some(text));
        // Fernet's first byte, as in what OpenAI encrypts, is no UTF-8; nor is its alphabet this one.
        assert_eq!(decode("gAAAAABo"), None);
        assert_eq!(decode("a_b-"), None);
    }
}
