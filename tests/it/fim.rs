//! The tiny model with fill-in-the-middle tokens: it is noise, but its prompts have the form of a model for code.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::server::{TestServer, tiny_model};

/// Its tokens by GGUF's names; as texts they are rare characters.
pub const TOKENS: [(&str, u32); 5] = [
    ("fim_pre", 31_990),
    ("fim_suf", 31_991),
    ("fim_mid", 31_992),
    ("fim_rep", 31_993),
    ("fim_sep", 31_994),
];

/// The id of one of the tokens.
pub fn id(name: &str) -> u32 {
    let found = TOKENS.iter().find(|(other, _)| *other == name);
    found.expect("a token").1
}

/// A server on it, shared by tests that do not mind each other.
pub fn server() -> &'static TestServer {
    static SERVER: OnceLock<TestServer> = OnceLock::new();
    SERVER.get_or_init(|| TestServer::start(&write("shared").display().to_string()))
}

/// Writes it where tests of this run find it, and nobody else does.
pub fn write(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("candor-{}-fim-{name}.gguf", std::process::id()));
    std::fs::write(&path, gguf()).expect("a file is written");
    path
}

/// The tiny model's file with more metadata before its own. All that follows keeps its alignment, because what is put in has
/// a multiple of it.
fn gguf() -> Vec<u8> {
    const ALIGNMENT: usize = 32;
    /// Magic, version, and the numbers of tensors and of metadata.
    const HEAD: usize = 24;
    let file = std::fs::read(tiny_model()).expect("the tiny model");
    let (head, rest) = file.split_at(HEAD);
    let mut more = Vec::new();
    for (name, id) in TOKENS {
        text(&mut more, &format!("tokenizer.ggml.{name}_token_id"));
        // A u32.
        more.extend(4_u32.to_le_bytes());
        more.extend(id.to_le_bytes());
    }
    text(&mut more, "general.tags_of_this_test");
    // A string that fills up.
    more.extend(8_u32.to_le_bytes());
    let filled = (more.len() + 8).next_multiple_of(ALIGNMENT) - more.len() - 8;
    text(&mut more, &" ".repeat(filled));
    let metadata = u64::from_le_bytes(head[16..].try_into().expect("eight bytes"));
    let metadata = metadata + TOKENS.len() as u64 + 1;
    [&head[..16], &metadata.to_le_bytes(), &more, rest].concat()
}

/// A text as GGUF has it.
fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}
