//! Numbers in a text of JSON come to an end: how many digits the last one has.

/// Digits in a row, before and after the point: of more than 17, doubles keep nothing, and 64 bits hold 20.
const MOST_DIGITS: usize = 20;
/// Digits of an exponent: doubles end at 308.
const MOST_EXPONENT_DIGITS: usize = 3;

/// Reads a text of JSON byte by byte.
#[derive(Debug, Default)]
pub struct Digits {
    in_string: bool,
    escaped: bool,
    in_exponent: bool,
    /// Digits in a row at the end.
    count: usize,
}

impl Digits {
    pub fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.push_byte(byte);
        }
    }

    fn push_byte(&mut self, byte: u8) {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return;
        }
        match byte {
            b'0'..=b'9' => {
                self.count += 1;
                return;
            }
            b'e' | b'E' => self.in_exponent = self.count > 0,
            b'+' | b'-' => {}
            _ => self.in_exponent = false,
        }
        self.in_string = byte == b'"';
        self.count = 0;
    }

    /// Whether there are so many digits that no further one should follow.
    pub fn are_enough(&self) -> bool {
        let most = if self.in_exponent {
            MOST_EXPONENT_DIGITS
        } else {
            MOST_DIGITS
        };
        self.count >= most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_of_numbers_are_counted() {
        let twenty = "12345678901234567890";
        for (text, expect) in [
            (twenty.to_owned(), true),
            (twenty[1..].to_owned(), false),
            (format!("[1, -{twenty}"), true),
            (format!("{twenty}.5"), false),
            (format!("{twenty}.{twenty}"), true),
            ("1e12".to_owned(), false),
            ("1.5E-123".to_owned(), true),
            ("[1e12,123".to_owned(), false),
            ("true123".to_owned(), false),
            (format!("\"{twenty}"), false),
            (format!("\"\\\"{twenty}"), false),
            (format!("\"a\\\\\": {twenty}"), true),
        ] {
            let mut digits = Digits::default();
            digits.push(text.as_bytes());
            assert_eq!(digits.are_enough(), expect, "{text}");
        }
    }
}
