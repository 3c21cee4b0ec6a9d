//! The events of a streamed response.

use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{Content, Item, Logprobs, Response};

/// A step of a response. Which fields it has depends on its type.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ResponseEvent)]
pub struct Event {
    /// What it says, such as "response.output_text.delta".
    pub r#type: &'static str,
    /// Counts the events, from 0.
    pub sequence_number: usize,
    /// The response so far, in its first two events and in its last one.
    #[schema(value_type = Option<Object>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<Box<Response>>,
    /// The item's index in `output`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_index: Option<usize>,
    /// The item, when it begins and when it is complete.
    #[schema(value_type = Option<Object>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<Item>,
    /// The item's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item_id: Option<String>,
    /// The index of its part: always 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_index: Option<usize>,
    /// The part, when it begins and when it is complete.
    #[schema(value_type = Option<Object>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<Content>,
    /// Text to append.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<String>,
    /// All of a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// With all of a call's arguments: the function's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// All of a call's arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
    /// With the text of a message: its tokens, if they are asked for.
    #[schema(value_type = Option<Vec<Object>>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Logprobs>,
}

impl Event {
    /// About a response.
    pub fn of(r#type: &'static str, response: &Response) -> Self {
        Self {
            r#type,
            response: Some(Box::new(response.clone())),
            ..Self::default()
        }
    }

    /// About an item that is being written.
    pub fn of_item(item: &Item) -> Self {
        Self {
            item_id: Some(item.id.clone()),
            ..Self::default()
        }
    }

    /// About its text.
    pub fn of_text(item: &Item) -> Self {
        Self {
            content_index: Some(0),
            ..Self::of_item(item)
        }
    }

    /// Whether it has all of something instead of a piece.
    pub fn is_whole(&self) -> bool {
        self.delta.is_none()
    }
}
