//! Weights on huge pages. A token reads every weight once, from tens of thousands of pages of 4 KiB; looking up each page
//! takes time, especially in a virtual machine. With pages of 2 MiB, a token of SmolLM2-135M takes a tenth less time.
#![expect(unsafe_code, reason = "madvise; the block states why it holds")]

use std::ops::Range;

/// Smaller buffers gain nothing.
const WORTH_BYTES: usize = 8 << 20;

/// Runs `allocate`, which allocates and fills large buffers, then asks Linux to move them to huge pages. Best effort: if
/// there are none, nothing changes. Does nothing on other systems.
pub fn gather<T>(allocate: impl FnOnce() -> T) -> T {
    let before = anonymous();
    let made = allocate();
    let mut bytes = 0;
    for new in anonymous() {
        for range in without(new, &before) {
            if range.len() >= WORTH_BYTES && collapse(&range) {
                bytes += range.len();
            }
        }
    }
    tracing::debug!(mib = bytes >> 20, "moved to huge pages");
    made
}

/// The anonymous writable memory, in ascending order.
fn anonymous() -> Vec<Range<usize>> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().filter_map(anonymous_line).collect()
}

/// `7f12a0000000-7f12a4000000 rw-p 00000000 00:00 0 [heap]`
fn anonymous_line(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let writable = words.next()?.starts_with("rw-p");
    let file = words.nth(2)? != "0";
    let address = |text| usize::from_str_radix(text, 16).ok();
    (writable && !file).then_some(address(start)?..address(end)?)
}

/// The parts of a range that are in none of the others, which are in ascending order.
fn without(range: Range<usize>, others: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut left = Vec::new();
    let mut start = range.start;
    for other in others {
        if other.end > start && other.start < range.end {
            if other.start > start {
                left.push(start..other.start);
            }
            start = other.end;
        }
    }
    if start < range.end {
        left.push(start..range.end);
    }
    left
}

#[cfg(target_os = "linux")]
fn collapse(range: &Range<usize>) -> bool {
    /// On x86-64 and on most ARM kernels.
    const HUGE: usize = 2 << 20;
    let (start, end) = (range.start.next_multiple_of(HUGE), range.end / HUGE * HUGE);
    if start >= end {
        return false;
    }
    // SAFETY: the range is mapped; if it is unmapped by now, the calls return an error. Both calls change only which pages
    // hold the memory, never its content.
    unsafe {
        let start = start as *mut libc::c_void;
        let length = end - start as usize;
        libc::madvise(start, length, libc::MADV_HUGEPAGE) == 0
            && libc::madvise(start, length, libc::MADV_COLLAPSE) == 0
    }
}

#[cfg(not(target_os = "linux"))]
fn collapse(_: &Range<usize>) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_map_are_read() {
        let check = |line: &str, expect| assert_eq!(anonymous_line(line), expect, "{line}");
        check("1000-3000 rw-p 00000000 00:00 0 ", Some(0x1000..0x3000));
        check(
            "1000-3000 rw-p 00000000 00:00 0  [heap]",
            Some(0x1000..0x3000),
        );
        check("1000-3000 r--p 00000000 00:00 0 ", None);
        check("1000-3000 rw-p 00000000 fe:00 77 /lib/x.so", None);
        check("", None);
    }

    #[test]
    fn only_what_is_new_is_left() {
        let check = |range, others: &[Range<usize>], expect: &[(usize, usize)]| {
            let left = without(range, others);
            let left: Vec<_> = left.iter().map(|left| (left.start, left.end)).collect();
            assert_eq!(left, expect);
        };
        check(0..10, &[], &[(0, 10)]);
        check(0..10, &[2..3, 5..20], &[(0, 2), (3, 5)]);
        check(10..20, &[0..5, 0..12, 30..40], &[(12, 20)]);
        check(10..20, &[5..25, 30..31], &[]);
    }

    #[test]
    fn the_content_of_memory_stays() {
        let bytes: Vec<u8> = gather(|| (0..3 * WORTH_BYTES).map(|i| i as u8).collect());
        assert!(bytes.iter().enumerate().all(|(i, &byte)| byte == i as u8));
    }
}
