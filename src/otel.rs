//! Traces for an OpenTelemetry collector, in a build with the feature `otel`. A leaf, like `metrics`.
//!
//! The span of each request is sent as JSON over HTTP (OTLP), with the log lines in it. OpenTelemetry's own variables set
//! the target and the name: OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT (without either, nothing is
//! sent), OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_BSP_*,
//! OTEL_SDK_DISABLED.
//!
//! OpenTelemetry's own exporter writes protobuf, which needs many more crates and changes features of those that build
//! llama.cpp: it would be built a second time.

use std::env;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, StatusCode};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanId, SpanKind, Status, TracerProvider};
use opentelemetry::{Key, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use serde_json::{Value as Json, json};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

/// Has the spans that are not sent yet.
static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// The layer that sends spans; `None` if the environment names no collector. Spans of libraries, which contain paths, are
/// left out.
pub fn layer<S>() -> Option<impl Layer<S>>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
    if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return None;
    }
    let url = variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| {
        let base = variable("OTEL_EXPORTER_OTLP_ENDPOINT")?;
        Some(format!("{}/v1/traces", base.trim_end_matches('/')))
    })?;
    let headers = variable("OTEL_EXPORTER_OTLP_TRACES_HEADERS")
        .or_else(|| variable("OTEL_EXPORTER_OTLP_HEADERS"))
        .unwrap_or_default();
    let is_named = variable("OTEL_SERVICE_NAME").is_some()
        || variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|list| list.contains("service.name="));
    let resource = Resource::builder();
    let resource = if is_named {
        resource
    } else {
        resource.with_service_name("candor")
    };
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(Exporter::new(url, headers_of(&headers)))
        .with_resource(resource.build())
        .build();
    let tracer = PROVIDER.get_or_init(|| provider).tracer("candor");
    Some(
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_filter(filter_fn(|span| span.target().starts_with("candor"))),
    )
}

/// Sends the remaining spans, with a time limit of some seconds.
pub fn finish() {
    if let Some(Err(error)) = PROVIDER.get().map(SdkTracerProvider::shutdown) {
        tracing::warn!(%error, "the last traces could not be sent");
    }
}

/// Makes a request's span part of its sender's trace (`traceparent`), if there is one.
pub fn join(span: &Span, headers: &HeaderMap) {
    struct Headers<'a>(&'a HeaderMap);
    impl Extractor for Headers<'_> {
        fn get(&self, name: &str) -> Option<&str> {
            self.0.get(name)?.to_str().ok()
        }

        fn keys(&self) -> Vec<&str> {
            self.0.keys().map(|name| name.as_str()).collect()
        }
    }
    let begun = TraceContextPropagator::new().extract(&Headers(headers));
    // Fails if nothing is sent, as the span then has no context.
    let _ = span.set_parent(begun);
}

/// Records the status of a request.
pub fn answered(span: &Span, status: StatusCode) {
    span.set_attribute("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.set_status(Status::error(""));
    }
}

/// Records the tokens of a request, by OpenTelemetry's conventions.
pub fn tokens(span: &Span, prompt: usize, generated: usize) {
    let whole = |tokens| i64::try_from(tokens).unwrap_or(i64::MAX);
    span.set_attribute("gen_ai.usage.input_tokens", whole(prompt));
    span.set_attribute("gen_ai.usage.output_tokens", whole(generated));
}

/// `name=value,name=value`.
fn headers_of(list: &str) -> Vec<(String, String)> {
    list.split(',')
        .filter_map(|one| one.split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

/// Sends spans with our HTTP client. It may block, as it runs on its own thread.
#[derive(Debug)]
struct Exporter {
    agent: ureq::Agent,
    url: String,
    headers: Vec<(String, String)>,
    resource: Json,
}

impl Exporter {
    fn new(url: String, headers: Vec<(String, String)>) -> Self {
        /// For a whole request; a collector answers immediately.
        const TIMEOUT: Duration = Duration::from_secs(10);
        let agent = crate::http_client::client(ureq::tls::TlsConfig::default())
            .http_status_as_error(true)
            .timeout_global(Some(TIMEOUT))
            .build()
            .new_agent();
        Self {
            agent,
            url,
            headers,
            resource: Json::Null,
        }
    }

    fn send(&self, batch: &[SpanData]) -> Result<(), ureq::Error> {
        let spans: Vec<Json> = batch.iter().map(span).collect();
        let body = json!({"resourceSpans": [{
            "resource": self.resource,
            "scopeSpans": [{
                "scope": {"name": "candor", "version": env!("CARGO_PKG_VERSION")},
                "spans": spans,
            }],
        }]});
        let mut request = self.agent.post(&self.url);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request
            .header("content-type", "application/json")
            .send(body.to_string())?;
        Ok(())
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.send(&batch).map_err(|error| {
            tracing::warn!(spans = batch.len(), %error, "traces could not be sent");
            OTelSdkError::InternalFailure(error.to_string())
        })
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = json!({"attributes": attributes(resource.iter())});
    }
}

/// A span in OTLP's JSON: ids in hexadecimal, 64-bit integers as strings.
fn span(data: &SpanData) -> Json {
    let kind = match data.span_kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
        SpanKind::Producer => 4,
        SpanKind::Consumer => 5,
    };
    let status = match &data.status {
        Status::Unset => json!({}),
        Status::Ok => json!({"code": 1}),
        Status::Error { description } => json!({"code": 2, "message": description}),
    };
    let events: Vec<Json> = data
        .events
        .iter()
        .map(|event| {
            json!({
                "timeUnixNano": nanoseconds(event.timestamp),
                "name": event.name,
                "attributes": attributes(event.attributes.iter().map(|one| (&one.key, &one.value))),
            })
        })
        .collect();
    let mut span = json!({
        "traceId": data.span_context.trace_id().to_string(),
        "spanId": data.span_context.span_id().to_string(),
        "traceState": data.span_context.trace_state().header(),
        "flags": data.span_context.trace_flags().to_u8(),
        "name": data.name,
        "kind": kind,
        "startTimeUnixNano": nanoseconds(data.start_time),
        "endTimeUnixNano": nanoseconds(data.end_time),
        "attributes": attributes(data.attributes.iter().map(|one| (&one.key, &one.value))),
        "events": events,
        "status": status,
    });
    if data.parent_span_id != SpanId::INVALID {
        span["parentSpanId"] = json!(data.parent_span_id.to_string());
    }
    span
}

fn attributes<'a>(all: impl Iterator<Item = (&'a Key, &'a Value)>) -> Vec<Json> {
    all.map(|(key, value)| {
        let value = match value {
            Value::Bool(value) => json!({"boolValue": value}),
            Value::I64(value) => json!({"intValue": value.to_string()}),
            Value::F64(value) => json!({"doubleValue": value}),
            // Nothing here logs lists.
            other => json!({"stringValue": other.as_str()}),
        };
        json!({"key": key.as_str(), "value": value})
    })
    .collect()
}

fn nanoseconds(time: SystemTime) -> String {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos())
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_parsed() {
        let check = |list: &str, expect: &[(&str, &str)]| {
            let read = headers_of(list);
            let read: Vec<(&str, &str)> = read.iter().map(|(a, b)| (&**a, &**b)).collect();
            assert_eq!(read, expect, "{list}");
        };
        check("", &[]);
        check("api-key=a=b", &[("api-key", "a=b")]);
        check("a=1, b = 2,c", &[("a", "1"), ("b", "2")]);
    }

    #[test]
    fn integers_are_strings() {
        let all = [
            (Key::new("status"), Value::I64(200)),
            (Key::new("share"), Value::F64(0.5)),
            (Key::new("route"), Value::from("/health")),
        ];
        assert_eq!(
            Json::from(attributes(all.iter().map(|(key, value)| (key, value)))),
            json!([
                {"key": "status", "value": {"intValue": "200"}},
                {"key": "share", "value": {"doubleValue": 0.5}},
                {"key": "route", "value": {"stringValue": "/health"}},
            ])
        );
    }
}
