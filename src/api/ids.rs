//! Random ids.

use crate::random;

/// `kind` and 32 random hexadecimal digits. An answer's id must not be guessable: it lets a client fork that answer.
pub fn new_id(kind: &str) -> String {
    format!("{kind}-{:032x}", u128::from_le_bytes(random::bytes()))
}

/// The same with the underscore of OpenAI's responses: some clients look for it.
pub fn response_id(kind: &str) -> String {
    new_id(kind).replace('-', "_")
}

/// Nine random letters and digits, as some models' templates want the ids of calls.
pub fn nine_characters() -> String {
    const CHARACTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let bytes: [u8; 9] = random::bytes();
    let characters = bytes.map(|byte| char::from(CHARACTERS[usize::from(byte) % CHARACTERS.len()]));
    characters.into_iter().collect()
}
