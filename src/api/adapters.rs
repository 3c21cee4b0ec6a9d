//! The field `lora`: which LoRA adapters apply to a request. `model` may name one, too.

use serde_json::{Value, json};

use super::error::ApiError;
use super::fields::{Fields, whole, wrong};
use super::served::Served;
use super::wording::{counted, describe};
use crate::model::{Adapters, LARGEST_SCALE, Model};

/// The adapters of a request: those that `lora` names, or without the field the one that `model` names or else the model's
/// defaults.
pub fn read(fields: &mut Fields, served: &Served) -> Result<Adapters, ApiError> {
    let model: &Model = &served.model;
    let value = fields
        .field(
            "lora",
            "The LoRA adapters that apply to this request, each by its id (its index in the setting `model.lora`, from 0) \
             or name. Others do not apply, so with an empty array none does. Without the field, the server's defaults \
             apply.",
        )
        .value(|| {
            json!({"type": "array", "items": {
                "type": "object",
                "required": ["id", "scale"],
                "additionalProperties": false,
                "properties": {
                    "id": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]},
                    "scale": {"type": "number", "minimum": -LARGEST_SCALE, "maximum": LARGEST_SCALE},
                },
            }})
        });
    let Some(value) = value else {
        return Ok(served.default_adapters());
    };
    served.refuse_adapter(
        "lora",
        "So the request cannot have `lora`, too: leave it out, or send the model's own name.",
    )?;
    let loaded = model.adapters().len();
    let items = match value {
        Value::Array(items) if items.len() <= loaded => items,
        other => {
            let entries = match loaded {
                1 => "1 entry".to_owned(),
                _ => format!("{loaded} entries"),
            };
            let allowed = format!(
                "an array of at most {entries}, as {} loaded (GET /lora-adapters lists them)",
                match loaded {
                    0 => "no adapter is".to_owned(),
                    1 => "1 adapter is".to_owned(),
                    _ => format!("{} are", counted(loaded, "adapter")),
                }
            );
            return Err(wrong("lora", &allowed, &other));
        }
    };
    let mut scales: Vec<(usize, f32)> = Vec::with_capacity(items.len());
    for (place, item) in items.into_iter().enumerate() {
        let place = format!("lora[{place}]");
        let (id, scale) = adapter(&place, item, model, fields)?;
        if scales.iter().any(|(other, _)| *other == id) {
            return Err(refused(format!(
                "`{place}` names adapter {id} ({:?}) a second time.",
                model.adapters()[id].name()
            )));
        }
        scales.push((id, scale));
    }
    Ok(Adapters::new(scales))
}

/// An entry: the adapter's index in the model's list, and its scale.
fn adapter(
    place: &str,
    item: Value,
    model: &Model,
    fields: &mut Fields,
) -> Result<(usize, f32), ApiError> {
    let Value::Object(mut entry) = item else {
        return Err(refused(format!(
            "`{place}` must be an object with `id` and `scale`, but it is {}.",
            describe(&item)
        )));
    };
    let mut take = |key: &str| {
        entry.remove(key).ok_or_else(|| {
            refused(format!(
                "`{place}` must have `id` and `scale`, but it has no `{key}`."
            ))
        })
    };
    let (id, scale) = (take("id")?, take("scale")?);
    fields.unread(place, &entry, Some("`id` and `scale`"));
    let adapters = model.adapters();
    let found = match &id {
        Value::String(name) => adapters.iter().position(|adapter| adapter.name() == name),
        number => whole(number)
            .and_then(|number| usize::try_from(number).ok())
            .filter(|&number| number < adapters.len()),
    };
    let found = found.ok_or_else(|| {
        refused(format!(
            "`{place}.id` must be the id or the name of an adapter in GET /lora-adapters, but it is {}.",
            describe(&id)
        ))
    })?;
    let number = scale
        .as_f64()
        .filter(|number| number.abs() <= f64::from(LARGEST_SCALE))
        .ok_or_else(|| {
            refused(format!(
                "`{place}.scale` must be a number from -{LARGEST_SCALE} to {LARGEST_SCALE}, but it is {}.",
                describe(&scale)
            ))
        })?;
    Ok((found, number as f32))
}

fn refused(message: String) -> ApiError {
    ApiError::field("lora", message)
}
