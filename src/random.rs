//! Random numbers of the operating system. A leaf: any module may use it.

/// Random bytes, good enough for secrets.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // It fails only before the system has booted; the standard library's hash maps panic then, too.
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    bytes
}

/// A random number, not to be guessed.
pub fn number() -> u64 {
    u64::from_le_bytes(bytes())
}
