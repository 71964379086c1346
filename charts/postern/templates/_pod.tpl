{{/* Parts of pods that all services share; each takes (list $ "relay"). */}}

{{- define "postern.podMetadata" -}}
{{- $part := index (index . 0).Values (index . 1) -}}
labels:
  {{- include "postern.labels" . | nindent 2 }}
  {{- with $part.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  # A change of what is mounted starts the pods anew; a token that was made up never changes.
  checksum/secrets: {{ include "postern.secretsChecksum" . }}
  {{- with $part.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "postern.secretsChecksum" -}}
{{- $v := (index . 0).Values -}}
{{- if eq (index . 1) "portal" -}}
{{- dict "config" $v.portal.config "relay" $v.relay.token "gateway" $v.gateway.token "site" $v.gateway.site "bind" $v.bindAddress "port" $v.portal.port | toJson | sha256sum -}}
{{- else if and (eq (index . 1) "relay") $v.relay.standalone.enabled -}}
{{- include "postern.relayFile" (index . 0) | sha256sum -}}
{{- else -}}
{{- (index $v (index . 1)).token | toJson | sha256sum -}}
{{- end -}}
{{- end -}}

{{- define "postern.podPlacement" -}}
{{- $root := index . 0 -}}
{{- $part := index $root.Values (index . 1) -}}
serviceAccountName: {{ include "postern.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $part.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "postern.probes" -}}
{{- $probes := (index (index . 0).Values (index . 1)).probes -}}
startupProbe:
  httpGet: {path: /healthz, port: {{ index . 2 }}}
  {{- toYaml $probes.startup | nindent 2 }}
livenessProbe:
  httpGet: {path: /healthz, port: {{ index . 2 }}}
  {{- toYaml $probes.liveness | nindent 2 }}
readinessProbe:
  httpGet: {path: {{ index . 3 }}, port: {{ index . 2 }}}
  {{- toYaml $probes.readiness | nindent 2 }}
{{- end -}}

{{- define "postern.containerImage" -}}
image: {{ include "postern.image" . }}
imagePullPolicy: {{ (index (index . 0).Values (index . 1)).image.pullPolicy }}
{{- end -}}

{{- define "postern.tokenVolume" -}}
name: {{ index . 1 }}-token
secret:
  secretName: {{ include "postern.tokenSecret" . }}
  # Without it the container starts, and says in its log what is missing.
  optional: true
  defaultMode: 0440
  items:
    - {key: {{ include "postern.tokenKey" . }}, path: token}
{{- end -}}
