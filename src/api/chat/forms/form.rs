//! What a form of calls consists of.

/// The form in which a family of models writes calls of tools.
#[derive(Debug)]
pub struct Form {
    pub name: &'static str,
    /// Models that write it.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for the documents, which a test writes")
    )]
    pub models: &'static str,
    /// What the chat template of such a model contains: all texts of one of these sets.
    pub marks: &'static [&'static [&'static str]],
    /// Markers that begin a call, or a list of calls.
    pub open: &'static [&'static str],
    /// What may follow a call, and is not text then.
    pub close: &'static [&'static str],
    /// Whether an answer may begin with a JSON object that lacks its marker. Small models leave it out.
    pub bare: bool,
    pub body: Body,
    pub ids: Ids,
    /// How a list of calls begins and ends when it is forced.
    pub list: (&'static [Piece], &'static [Piece]),
    /// How one call is written when it is forced.
    pub written: &'static [Piece],
    /// What separates several calls; `None`: an answer has only one.
    pub between: Option<&'static [Piece]>,
}

/// What follows the marker that begins a call.
#[derive(Debug)]
pub enum Body {
    /// An object with the function's name and its arguments, or a list of them.
    Object(Keys),
    /// The name, one of these separators, and the arguments as JSON. Text between two separators is a call's id.
    Named(&'static [&'static str]),
    /// The name, and each argument between markers.
    Parameters(Parameters),
    /// `[name(key=value, …), …]`, with values as in Python.
    Python,
    /// `call:name{key:value, …}`, with strings between `<|"|>`.
    Gemma,
    /// Messages that each begin with a header, which says whether it is content, reasoning or a call.
    Channels(Channels),
}

/// The keys of a call's object.
#[derive(Debug)]
pub enum Keys {
    /// Of the name, and of the arguments. Others that models use instead are accepted, too.
    Two(&'static str, &'static str),
    /// The name itself is the key of the arguments.
    Name,
}

/// The markers around the parts of a call with an element for each argument.
#[derive(Debug)]
pub struct Parameters {
    /// Before and after the function's name. Where there is nothing before it, a line end is after it.
    pub name: (&'static str, &'static str),
    /// Before and after the key.
    pub key: (&'static str, &'static str),
    /// Before and after the value.
    pub value: (&'static str, &'static str),
    /// After the last argument; `""`: only what ends the call.
    pub end: &'static str,
    /// Written after the name, and after each argument.
    pub line: &'static str,
    /// Written around each value.
    pub pad: &'static str,
    /// Attributes written after the key of a string, and of another value.
    pub attributes: (&'static str, &'static str),
}

/// The markers of messages that begin with a header.
#[derive(Debug)]
pub struct Channels {
    /// Begin a header.
    pub header: &'static [&'static str],
    /// Ends a header.
    pub message: &'static str,
    /// End a message.
    pub end: &'static [&'static str],
    /// Before the recipient of a call within a header; `""`: the header is nothing else.
    pub recipient: &'static str,
    /// What a header of reasoning contains.
    pub reasoning: Option<&'static str>,
    /// What the prompt ends with, after which a header goes on.
    pub prompt: &'static str,
    /// What is before reasoning, at its end, and before the message that follows it, when that is forced.
    pub thought: Option<[&'static str; 3]>,
    /// What is before an answer that is no call when that is forced.
    pub answer: &'static str,
}

/// The ids of calls. Templates render those of earlier calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// `call-…`.
    Any,
    /// Nine letters and digits: other ids are refused by the template.
    Nine,
}

/// A part of a call that is forced.
#[derive(Debug)]
pub enum Piece {
    /// This text, or the control token of this name.
    Text(&'static str),
    /// The function's name.
    Name,
    /// Text that matches this expression.
    Matching(&'static str),
    /// The arguments, or the object of the call, as the body says.
    Arguments,
}
