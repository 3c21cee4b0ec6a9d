//! The order in which lines are sent: those whose prompts begin alike are next to each other, so that a server that sends
//! them one after the other evaluates what they share once. Otherwise it is the order of the input.

use std::ops::Range;

use super::beginning::Beginning;

/// As many lines as this that begin alike are a group, which a router should send to one server.
const GROUP: usize = 4;

/// Lines in the order in which they are sent.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Order {
    places: Vec<Place>,
}

/// A line at its place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// Its index in the input.
    pub line: u32,
    /// A hash of the beginning that it shares with its group.
    pub group: u32,
    /// How many lengths of its beginning it shares with the line before it.
    shared: u8,
}

impl Order {
    /// Orders all lines, given the beginning of each.
    pub fn new(beginnings: &[Beginning]) -> Self {
        let mut lines: Vec<u32> = (0..).take(beginnings.len()).collect();
        arrange(beginnings, &mut lines, 0);
        let of = |line: u32| &beginnings[line as usize];
        let mut places: Vec<Place> = lines
            .iter()
            .map(|&line| Place {
                line,
                group: 0,
                shared: 0,
            })
            .collect();
        for at in 1..places.len() {
            let pair = of(lines[at - 1]).iter().zip(of(lines[at]));
            places[at].shared = pair.take_while(|(a, b)| a == b).count() as u8;
        }
        for (at, lengths) in group_lengths(&places).into_iter().enumerate() {
            let of_group = usize::from(lengths).saturating_sub(1);
            places[at].group = of(lines[at])[of_group];
        }
        Self { places }
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn at(&self, place: usize) -> Place {
        self.places[place]
    }

    /// One of `of` parts of about equal length; together they are the whole. Every machine cuts the same parts.
    pub fn part(&self, index: usize, of: usize) -> Range<usize> {
        let start = |index: usize| {
            if index == of {
                return self.len();
            }
            let target = (self.len() as u128 * index as u128 / of as u128) as usize;
            self.cut(0..self.len(), target, self.len() / of / 4)
        };
        start(index)..start(index + 1)
    }

    /// The best place to cut a range, at most `slack` from the target: the one where neighbours have the least in common.
    pub fn cut(&self, range: Range<usize>, target: usize, slack: usize) -> usize {
        let first = target.saturating_sub(slack).max(range.start);
        let last = (target + slack).min(range.end);
        let shared = |at: usize| self.places.get(at).map_or(0, |place| place.shared);
        let best = (first..=last).min_by_key(|&at| (shared(at), at.abs_diff(target)));
        best.unwrap_or(target)
    }

    /// Keeps a range.
    pub fn keep(&mut self, range: Range<usize>) {
        self.places.truncate(range.end);
        self.places.drain(..range.start);
    }

    /// Drops the lines that are done.
    pub fn drop_done(&mut self, is_done: impl Fn(u32) -> bool) {
        // What the last line that stays shares with those dropped after it.
        let mut shared = u8::MAX;
        self.places.retain_mut(|place| {
            shared = shared.min(place.shared);
            if is_done(place.line) {
                return false;
            }
            place.shared = shared;
            shared = u8::MAX;
            true
        });
    }
}

/// Puts lines that share a beginning of at least `lengths` next to each other. They come, and stay, in the order of the input
/// where they share no more.
fn arrange(beginnings: &[Beginning], lines: &mut [u32], lengths: usize) {
    if lines.len() < 2 || lengths == Beginning::default().len() {
        return;
    }
    let of = |line: u32| beginnings[line as usize][lengths];
    let is_shared = |pair: &[u32]| of(pair[0]) == of(pair[1]);
    if lines.windows(2).all(is_shared) {
        return arrange(beginnings, lines, lengths + 1);
    }
    lines.sort_unstable_by_key(|&line| (of(line), line));
    if !lines.windows(2).any(is_shared) {
        lines.sort_unstable();
        return;
    }
    // Each run goes where its first line was.
    let mut runs: Vec<&[u32]> = lines.chunk_by(|&a, &b| of(a) == of(b)).collect();
    runs.sort_unstable_by_key(|run| run[0]);
    let arranged = runs.concat();
    lines.copy_from_slice(&arranged);
    drop(arranged);
    for run in lines.chunk_by_mut(|&a, &b| of(a) == of(b)) {
        arrange(beginnings, run, lengths + 1);
    }
}

/// For each place, the most lengths that it shares with a whole group.
fn group_lengths(places: &[Place]) -> Vec<u8> {
    let mut lengths = vec![0; places.len()];
    for start in 0..(places.len() + 1).saturating_sub(GROUP) {
        let group = start..start + GROUP;
        let shared = places[group.clone()][1..].iter().map(|place| place.shared);
        let shared = shared.min().unwrap_or(0);
        for length in &mut lengths[group] {
            *length = shared.max(*length);
        }
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beginnings that differ from the given length on, by letters: "ab" and "ac" share one length.
    fn beginnings(texts: &[&str]) -> Vec<Beginning> {
        let of = |text: &&str| {
            let mut beginning = Beginning::default();
            let mut hash = 0;
            for (at, hash_at) in beginning.iter_mut().enumerate() {
                let letter = text.as_bytes().get(at).copied().unwrap_or(b'.');
                // Not in the order of letters, as hashes are not.
                hash = (hash ^ u32::from(letter)).wrapping_mul(0x9e37_79b1);
                *hash_at = hash;
            }
            beginning
        };
        texts.iter().map(of).collect()
    }

    fn lines(order: &Order) -> Vec<u32> {
        order.places.iter().map(|place| place.line).collect()
    }

    #[test]
    fn lines_that_begin_alike_are_neighbours() {
        let check = |texts: &[&str], expect: &[u32]| {
            assert_eq!(lines(&Order::new(&beginnings(texts))), expect, "{texts:?}");
        };
        check(&[], &[]);
        check(&["a"], &[0]);
        // In the order of the input where nothing is shared.
        check(&["d", "b", "c", "a"], &[0, 1, 2, 3]);
        check(&["a", "b", "a", "b", "a"], &[0, 2, 4, 1, 3]);
        check(&["ax", "b", "ay", "b", "ax"], &[0, 4, 2, 1, 3]);
        check(&["aax", "aby", "aaz", "abx"], &[0, 2, 1, 3]);
        // What begins alike and then differs everywhere keeps its order.
        check(&["aaad", "aaab", "x", "aaac", "aaaa"], &[0, 1, 3, 4, 2]);
    }

    #[test]
    fn groups_share_a_hash() {
        let texts = ["ab", "ac", "ad", "ae", "x", "af", "y", "ay"];
        let order = Order::new(&beginnings(&texts));
        let group = |line: u32| {
            let place = order.places.iter().find(|place| place.line == line);
            place.unwrap().group
        };
        for line in [1, 2, 3, 5, 7] {
            assert_eq!(group(line), group(0));
        }
        assert_ne!(group(4), group(0));
        assert_ne!(group(4), group(6));
        // Four that share more are a group of their own.
        let order = Order::new(&beginnings(&[
            "ab1", "ab2", "ab3", "ab4", "ac", "ad", "ae", "af",
        ]));
        let groups: Vec<u32> = order.places.iter().map(|place| place.group).collect();
        assert_eq!(groups[0], groups[3]);
        assert_eq!(groups[4], groups[7]);
        assert_ne!(groups[0], groups[4]);
    }

    #[test]
    fn parts_are_cut_where_little_is_shared_and_make_the_whole() {
        let texts: Vec<String> = (0..40).map(|line| format!("{}{line}", line / 7)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let order = Order::new(&beginnings(&texts));
        // Places 7, 14, 21, 28 and 35 begin a group.
        assert_eq!(order.part(0, 2), 0..21);
        assert_eq!(order.part(1, 2), 21..40);
        assert_eq!(order.part(1, 4), 10..21);
        for of in 1..50 {
            let parts: Vec<Range<usize>> = (0..of).map(|index| order.part(index, of)).collect();
            assert_eq!((parts[0].start, parts[of - 1].end), (0, 40));
            for pair in parts.windows(2) {
                assert_eq!(pair[0].end, pair[1].start);
            }
        }
    }

    #[test]
    fn done_lines_are_dropped() {
        let mut order = Order::new(&beginnings(&["aa1", "aa2", "ab1", "ab2", "c"]));
        order.drop_done(|line| line == 1 || line == 2);
        let left: Vec<(u32, u8)> = order
            .places
            .iter()
            .map(|place| (place.line, place.shared))
            .collect();
        assert_eq!(left, [(0, 0), (3, 1), (4, 0)]);
        order.keep(1..2);
        assert_eq!(lines(&order), [3]);
    }
}
