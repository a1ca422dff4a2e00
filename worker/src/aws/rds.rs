//! `DescribeDBInstances`, signed by hand: RDS's whole client is a hundred times what this one question needs.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_runtime::client::orchestrator::operation::Operation;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse, OrchestratorError};
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_smithy_xml::decode::{Document, try_data};
use percent_encoding::utf8_percent_encode;

use super::AwsError;
use crate::audit::UNRESERVED;
use crate::config::HostPort;

const ACTION: &str = "rds:DescribeDBInstances";
/// The version of RDS's API that has what is read here.
const VERSION: &str = "2014-10-31";
const FORM: &str = "application/x-www-form-urlencoded";
/// How long the service has to answer.
const TIMEOUT: Duration = Duration::from_secs(6);

/// An answer of the service: its status and body.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: String,
}

/// Where `instance` listens now.
pub async fn endpoint(region: &str, instance: &str) -> Result<HostPort, AwsError> {
    let credentials = super::credentials().await?;
    let url = url(region, super::config().await.endpoint_url());
    let body = format!("Action=DescribeDBInstances&Version={VERSION}&DBInstanceIdentifier={}", utf8_percent_encode(instance, UNRESERVED));
    let request = signed(&url, region, body, &credentials, SystemTime::now())?;
    read(&ask(&url, region, request).await?, region, instance)
}

/// The service's address: `AWS_ENDPOINT_URL`, or by the region. China's regions have a domain of their own.
fn url(region: &str, named: Option<&str>) -> String {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    named.map_or_else(|| format!("https://rds.{region}.{domain}"), |url| url.trim_end_matches('/').to_owned())
}

fn signed(url: &str, region: &str, body: String, credentials: &Credentials, now: SystemTime) -> Result<HttpRequest, AwsError> {
    let unsigned = |what: &dyn std::fmt::Display| AwsError::Unsigned(what.to_string());
    let identity = credentials.clone().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("rds")
        .time(now)
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| unsigned(&error))?
        .into();
    let url = format!("{url}/");
    let headers = [("content-type", FORM)];
    let signable =
        SignableRequest::new("POST", &url, headers.into_iter(), SignableBody::Bytes(body.as_bytes())).map_err(|error| unsigned(&error))?;
    let (signature, _) = sign(signable, &params).map_err(|error| unsigned(&error))?.into_parts();
    let mut request = HttpRequest::new(SdkBody::from(body));
    request.set_method("POST").map_err(|error| unsigned(&error))?;
    request.set_uri("/").map_err(|error| unsigned(&error))?;
    for (name, value) in headers.into_iter().chain(signature.headers()) {
        let (name, value) = (name.to_owned(), value.to_owned());
        request.headers_mut().try_insert(name, value).map_err(|error| unsigned(&error))?;
    }
    Ok(request)
}

/// Sends the request with the SDK's own client, which knows the system's issuers.
async fn ask(url: &str, region: &str, request: HttpRequest) -> Result<Answer, AwsError> {
    let answer = |response: &HttpResponse| -> Result<Answer, OrchestratorError<std::io::Error>> {
        let body = String::from_utf8_lossy(response.body().bytes().unwrap_or_default()).into_owned();
        Ok(Answer { status: response.status().as_u16(), body })
    };
    let operation = Operation::builder()
        .service_name("rds")
        .operation_name("DescribeDBInstances")
        .behavior_version(super::behavior())
        .endpoint_url(url)
        .no_auth()
        // Whoever waits for the target tries again, with pauses.
        .no_retry()
        .timeout_config(TimeoutConfig::builder().operation_timeout(TIMEOUT).build())
        .serializer(|request: HttpRequest| Ok(request))
        .deserializer(answer)
        .build();
    Box::pin(operation.invoke(request)).await.map_err(|error: SdkError<_, _>| AwsError::Unavailable {
        region: region.to_owned(),
        what: format!("{url}: {}; is the region's name right?", super::chain(&error)),
    })
}

fn read(answer: &Answer, region: &str, instance: &str) -> Result<HostPort, AwsError> {
    let text = |name: &str| element(&answer.body, name);
    if answer.status == 200 {
        let (host, port) = (text("Address"), text("Port").and_then(|port| port.parse().ok()));
        return match host.zip(port) {
            Some((host, port)) => Ok(HostPort { host, port }),
            None if text("DBInstanceIdentifier").is_some() => {
                let status = text("DBInstanceStatus").unwrap_or_else(|| "unknown".to_owned());
                Err(AwsError::NoEndpoint { instance: instance.to_owned(), status })
            }
            None => Err(AwsError::NoInstance { instance: instance.to_owned(), region: region.to_owned() }),
        };
    }
    let code = text("Code").unwrap_or_else(|| format!("status {}", answer.status));
    // API reference of DescribeDBInstances, section "Errors".
    if code.starts_with("DBInstanceNotFound") {
        return Err(AwsError::NoInstance { instance: instance.to_owned(), region: region.to_owned() });
    }
    let message: String = text("Message").unwrap_or_default().chars().filter(|c| !c.is_control()).take(300).collect();
    if matches!(answer.status, 400 | 401 | 403) {
        return Err(AwsError::Denied { action: ACTION, region: region.to_owned(), code, message });
    }
    Err(AwsError::Unavailable { region: region.to_owned(), what: format!("{code}: {message}") })
}

/// The text of the first element of that name that is inside `Endpoint`, `Error` or `DBInstance`, wherever it stands.
fn element(body: &str, name: &str) -> Option<String> {
    let parent = match name {
        "Address" | "Port" => "Endpoint",
        "Code" | "Message" => "Error",
        _ => "DBInstance",
    };
    let mut document = Document::new(body);
    while let Some(start) = document.next_start_element() {
        if start.matches(parent) {
            let mut inside = document.scoped_to(start);
            while let Some(mut tag) = inside.next_tag() {
                if tag.start_el().matches(name) {
                    return try_data(&mut tag).ok().map(|text| text.trim().to_owned());
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUND: &str = "<?xml version='1.0'?><DescribeDBInstancesResponse xmlns='http://rds.amazonaws.com/doc/2014-10-31/'>\
        <DescribeDBInstancesResult><DBInstances><DBInstance><DBInstanceIdentifier>orders</DBInstanceIdentifier>\
        <DBInstanceStatus>available</DBInstanceStatus><DBSubnetGroup><Port>1</Port></DBSubnetGroup>\
        <Endpoint><HostedZoneId>Z1</HostedZoneId><Address>orders.abc.eu-west-1.rds.amazonaws.com</Address><Port>5433</Port></Endpoint>\
        </DBInstance></DBInstances></DescribeDBInstancesResult></DescribeDBInstancesResponse>";

    fn met(status: u16, body: &str) -> Result<HostPort, AwsError> {
        read(&Answer { status, body: body.to_owned() }, "eu-west-1", "orders")
    }

    fn error(status: u16, code: &str) -> AwsError {
        let body =
            format!("<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>no &amp; no</Message></Error></ErrorResponse>");
        met(status, &body).unwrap_err()
    }

    #[test]
    fn the_endpoint_is_read_and_no_other_port() {
        let expected = HostPort { host: "orders.abc.eu-west-1.rds.amazonaws.com".to_owned(), port: 5433 };
        assert_eq!(met(200, FOUND), Ok(expected));
    }

    #[test]
    fn what_is_missing_is_told_apart() {
        assert!(matches!(error(404, "DBInstanceNotFound"), AwsError::NoInstance { .. }));
        assert!(matches!(error(404, "DBInstanceNotFoundFault"), AwsError::NoInstance { .. }));
        assert!(matches!(error(500, "InternalFailure"), AwsError::Unavailable { .. }));
        let denied = error(403, "AccessDenied");
        assert_eq!(denied.to_string(), "AWS refuses rds:DescribeDBInstances in eu-west-1: AccessDenied: no & no");
        let creating = FOUND.replace("<Endpoint>", "<Other>").replace("</Endpoint>", "</Other>").replace("available", "creating");
        assert!(matches!(met(200, &creating), Err(AwsError::NoEndpoint { status, .. }) if status == "creating"));
        assert!(matches!(met(200, "<html>"), Err(AwsError::NoInstance { .. })));
        assert!(matches!(met(502, "bad gateway"), Err(AwsError::Unavailable { .. })));
    }

    #[test]
    fn the_service_is_found_by_region_or_override() {
        assert_eq!(url("eu-west-1", None), "https://rds.eu-west-1.amazonaws.com");
        assert_eq!(url("cn-north-1", None), "https://rds.cn-north-1.amazonaws.com.cn");
        assert_eq!(url("eu-west-1", Some("http://127.0.0.1:5000/")), "http://127.0.0.1:5000");
    }
}
