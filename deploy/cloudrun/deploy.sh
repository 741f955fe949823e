#!/usr/bin/env bash
# Builds the image of a bento, pushes it and makes it the service's newest revision on Cloud Run.
#
#   PROJECT=… REGION=… REPOSITORY=… SERVICE_ACCOUNT=… TOKEN_VERSION=1 AUDIT_KEY_VERSION=1 deploy/cloudrun/deploy.sh
#
# Needs bentoml, docker (logged in to REPOSITORY) and gcloud. What must exist before, and what to do after: runbook.md.
set -euo pipefail

BENTO=${BENTO:-models/bento/strokect.bento}
SERVICE=${SERVICE:-strokect}
TOKEN_SECRET=${TOKEN_SECRET:-strokect-tokens}
AUDIT_KEY_SECRET=${AUDIT_KEY_SECRET:-strokect-audit-key}
: "${PROJECT:?the Google Cloud project}"
: "${REGION:?for example europe-west1}"
: "${REPOSITORY:?address of the Artifact Registry repository, without a slash at its end}"
: "${SERVICE_ACCOUNT:?what the service runs as; needs to read the two secrets and nothing else}"
: "${TOKEN_VERSION:?version of the secret $TOKEN_SECRET, a number}"
: "${AUDIT_KEY_VERSION:?version of the secret $AUDIT_KEY_SECRET, a number}"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
VERSION=$(tar -xOJf "$BENTO" ./bento.yaml | sed -n "s/^version: *['\"]\{0,1\}\([0-9a-f]*\)['\"]\{0,1\} *$/\1/p")
if [[ ! $VERSION =~ ^[0-9a-f]{12}$ ]]; then
    echo "error: $BENTO does not say its version; make repro builds it" >&2
    exit 1
fi
IMAGE=$REPOSITORY/strokect:$VERSION
# The time too: the same bento with other settings or tokens is another revision.
REVISION=$SERVICE-$VERSION-$(date -u +%y%m%d%H%M%S)

filled=$(mktemp)
trap 'rm -f "$filled"' EXIT
text=$(<"$here/service.yaml")
for name in SERVICE REVISION VERSION IMAGE SERVICE_ACCOUNT TOKEN_SECRET TOKEN_VERSION AUDIT_KEY_SECRET AUDIT_KEY_VERSION; do
    if [[ ! ${!name} =~ ^[A-Za-z0-9@:._/-]+$ ]]; then # anything else could change what the YAML means
        echo "error: $name is '${!name}'; letters, digits and @ : . _ / - only" >&2
        exit 1
    fi
    text=${text//"\${$name}"/${!name}}
done
printf '%s\n' "$text" >"$filled"

if ! bentoml get "strokect:$VERSION" >/dev/null 2>&1; then
    bentoml import "$BENTO"
fi
bentoml containerize "strokect:$VERSION" --opt platform=linux/amd64 --image-tag "$IMAGE"
docker push "$IMAGE"
gcloud run services replace "$filled" --project "$PROJECT" --region "$REGION"
url=$(gcloud run services describe "$SERVICE" --project "$PROJECT" --region "$REGION" --format 'value(status.url)')
echo "revision $REVISION serves bento strokect:$VERSION at $url"
echo "check it: curl -H \"Authorization: Bearer \$STROKECT_TOKEN\" $url/model"
