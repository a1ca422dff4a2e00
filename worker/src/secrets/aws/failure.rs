//! What the service's errors mean. Their codes decide, never their words.

use aws_sdk_secretsmanager::config::http::HttpResponse;
use aws_sdk_secretsmanager::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueError;

use crate::secrets::SecretFailure;
use crate::secrets::error::spoken;

const NOT_FOUND: &str = "ResourceNotFoundException";

/// Of a secret that is there, but has no version at the stage that was asked for.
pub(super) fn is_missing_stage<R>(error: &SdkError<GetSecretValueError, R>) -> bool {
    error.code() == Some(NOT_FOUND)
}

/// `action` is what an IAM policy calls the request.
pub(super) fn failure<E>(action: &str, error: &SdkError<E, HttpResponse>) -> SecretFailure
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let SdkError::ServiceError(service) = error else {
        // No credentials, no connection, no answer in time: all can be otherwise a moment later.
        return SecretFailure::Unavailable(format!("{action} got no answer: {}", spoken(&DisplayErrorContext(error).to_string())));
    };
    let code = service.err().code().unwrap_or("without a code");
    let words = spoken(service.err().message().unwrap_or_default());
    let told = format!("{action} is answered with {code}: {words}");
    match code {
        NOT_FOUND => SecretFailure::NotFound(told),
        "ResourceExistsException" => SecretFailure::Conflict(told),
        "AccessDeniedException"
        | "AccessDenied"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "ExpiredTokenException"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "NotAuthorized"
        | "OptInRequired"
        | "DecryptionFailure"
        | "EncryptionFailure" => SecretFailure::Denied(format!("{told}; see which policy is needed in docs/secret-stores.md")),
        // The request is of a shape that the secret's state, name or region does not allow.
        "InvalidRequestException" | "InvalidParameterException" | "ValidationException" | "LimitExceededException" => {
            SecretFailure::Malformed(told)
        }
        _ if matches!(service.raw().status().as_u16(), 401 | 403) => SecretFailure::Denied(told),
        _ => SecretFailure::Unavailable(told),
    }
}
