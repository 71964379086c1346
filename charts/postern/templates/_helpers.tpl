{{- define "postern.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The helpers below take (list $ "relay"): the root and the name of a part. */}}

{{- define "postern.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "postern.labels" -}}
{{- $root := index . 0 -}}
{{ include "postern.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "postern.metadata" -}}
name: {{ include "postern.fullname" (index . 0) }}-{{ index . 1 }}
namespace: {{ (index . 0).Release.Namespace }}
labels:
  {{- include "postern.labels" . | nindent 2 }}
{{- end -}}

{{- define "postern.image" -}}
{{- $root := index . 0 -}}
{{- $image := (index $root.Values (index . 1)).image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default $root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "postern.serviceAccountName" -}}
{{- $account := (index (index . 0).Values (index . 1)).serviceAccount -}}
{{- if $account.name -}}
{{- $account.name -}}
{{- else if $account.create -}}
{{- include "postern.fullname" (index . 0) }}-{{ index . 1 -}}
{{- else -}}
default
{{- end -}}
{{- end -}}

{{/* Which Secret holds the token. */}}
{{- define "postern.tokenSecret" -}}
{{- $token := (index (index . 0).Values (index . 1)).token -}}
{{- default (printf "%s-%s" (include "postern.fullname" (index . 0)) (index . 1)) $token.existingSecret -}}
{{- end -}}

{{- define "postern.tokenKey" -}}
{{- $token := (index (index . 0).Values (index . 1)).token -}}
{{- ternary $token.key "token" (not (empty $token.existingSecret)) -}}
{{- end -}}

{{/* What is listened on: address:port, the address in brackets where it is IPv6. */}}
{{- define "postern.listen" -}}
{{- $address := (index . 0).Values.bindAddress -}}
{{- printf "%s:%d" (ternary (printf "[%s]" $address) $address (contains ":" $address)) (int (index . 1)) -}}
{{- end -}}

{{- define "postern.portalUrl" -}}
{{- if .Values.portalUrl -}}
{{- .Values.portalUrl -}}
{{- else -}}
{{- printf "ws://%s-portal.%s.svc:%d" (include "postern.fullname" .) .Release.Namespace (int .Values.portal.service.port) -}}
{{- end -}}
{{- end -}}

{{/* Whether a relay forwards by XDP, so that it needs capabilities: "true" or nothing. */}}
{{- define "postern.offload" -}}
{{- if and .Values.relay.offload.interfaces (ne .Values.relay.offload.mode "off") }}true{{ end -}}
{{- end -}}

{{/* What no schema can say, because it spans several values. */}}
{{- define "postern.check" -}}
{{- $v := .Values -}}
{{- if not (or $v.relay.enabled $v.gateway.enabled $v.portal.enabled) -}}
{{- fail "nothing to install: enable relay, gateway or portal" -}}
{{- end -}}
{{- $isAlone := and $v.relay.enabled $v.relay.standalone.enabled -}}
{{- if $isAlone -}}
{{- include "postern.checkStandalone" . -}}
{{- else if or $v.relay.standalone.config $v.relay.standalone.existingSecret $v.relay.standalone.tlsSecret -}}
{{- fail "relay.standalone has values: expected relay.enabled=true and relay.standalone.enabled=true with them" -}}
{{- else if and (or $v.relay.enabled $v.gateway.enabled) (not $v.portal.enabled) (not $v.portalUrl) -}}
{{- fail "portalUrl is not set: expected the URL of a portal, portal.enabled=true, or relay.standalone.enabled=true" -}}
{{- end -}}
{{- if and $v.portal.enabled $v.portalUrl -}}
{{- fail "portalUrl and portal.enabled are both set: expected one of the two" -}}
{{- end -}}
{{- range $part := list "relay" "gateway" -}}
{{- $token := (index $v $part).token -}}
{{- if and (index $v $part).enabled (not $isAlone) -}}
{{- if and $token.value $token.existingSecret -}}
{{- fail (printf "%s.token.value and %s.token.existingSecret are both set: expected one of the two" $part $part) -}}
{{- end -}}
{{- if and (not $token.value) (not $token.existingSecret) (or (not $v.portal.enabled) $v.portal.existingSecret) -}}
{{- fail (printf "%s.token is not set: expected %s.token.value or %s.token.existingSecret, for the portal's file is not made here" $part $part $part) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $v.relay.enabled -}}
{{- $address := $v.relay.publicAddress -}}
{{- if not (or $address.fromNode $address.ipv4 $address.ipv6) -}}
{{- fail "relay.publicAddress is empty: expected fromNode=true, ipv4 or ipv6" -}}
{{- end -}}
{{- if gt (int $v.relay.lowestPort) (int $v.relay.highestPort) -}}
{{- fail (printf "relay.lowestPort is %d: expected at most relay.highestPort, which is %d" (int $v.relay.lowestPort) (int $v.relay.highestPort)) -}}
{{- end -}}
{{- if and (include "postern.offload" .) (lt (int $v.relay.lowestPort) 32768) -}}
{{- fail (printf "relay.lowestPort is %d: expected at least 32768 with relay.offload.interfaces" (int $v.relay.lowestPort)) -}}
{{- end -}}
{{- $grace := $v.relay.terminationGracePeriodSeconds -}}
{{- if and (not (kindIs "invalid" $grace)) (le (int $grace) (int $v.relay.drainSeconds)) -}}
{{- fail (printf "relay.terminationGracePeriodSeconds is %d: expected more than relay.drainSeconds, which is %d" (int $grace) (int $v.relay.drainSeconds)) -}}
{{- end -}}
{{- end -}}
{{- if and $v.gateway.enabled (eq (int $v.gateway.maxSurge) 0) (eq (int $v.gateway.maxUnavailable) 0) -}}
{{- fail "gateway.maxSurge and gateway.maxUnavailable are both 0: no update could begin" -}}
{{- end -}}
{{- if and $v.portal.enabled $v.gateway.enabled (not $v.portal.existingSecret) -}}
{{- $sites := list -}}
{{- range $v.portal.config.sites }}{{ $sites = append $sites .name }}{{ end -}}
{{- if not (has $v.gateway.site $sites) -}}
{{- fail (printf "gateway.site is %q: expected one of portal.config.sites (%s)" $v.gateway.site (join ", " $sites)) -}}
{{- end -}}
{{- end -}}
{{- if and $v.portal.enabled (not $v.portal.existingSecret) (hasKey $v.portal.config "listen") -}}
{{- fail "portal.config.listen is set: expected bindAddress and portal.port instead" -}}
{{- end -}}
{{- if and $v.portal.ingress.enabled (not $v.portal.ingress.host) -}}
{{- fail "portal.ingress.host is not set: expected the name that clients dial" -}}
{{- end -}}
{{- end -}}

{{/* The TCP port of portalUrl. */}}
{{- define "postern.portalPort" -}}
{{- $url := urlParse .Values.portalUrl -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- default (ternary "80" "443" (eq $url.scheme "ws")) $port -}}
{{- end -}}
