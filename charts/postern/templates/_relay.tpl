{{/* What a relay is told: variables under a portal, a file alone. */}}

{{- define "postern.relayVariables" -}}
{{- $relay := .Values.relay -}}
- {name: FIREZONE_API_URL, value: {{ include "postern.portalUrl" . | quote }}}
- {name: FIREZONE_TOKEN, value: /etc/postern/relay/token}
- name: FIREZONE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
{{- with $relay.publicAddress }}
{{- if .ipv4 }}
- {name: PUBLIC_IP4_ADDR, value: {{ .ipv4 | quote }}}
{{- end }}
{{- if .ipv6 }}
- {name: PUBLIC_IP6_ADDR, value: {{ .ipv6 | quote }}}
{{- end }}
{{- end }}
- {name: LISTEN_PORT, value: {{ $relay.listenPort | int | quote }}}
- {name: LOWEST_PORT, value: {{ $relay.lowestPort | int | quote }}}
- {name: HIGHEST_PORT, value: {{ $relay.highestPort | int | quote }}}
{{- if include "postern.offload" . }}
- {name: POSTERN_EBPF_INTERFACES, value: {{ join "," $relay.offload.interfaces | quote }}}
- {name: POSTERN_EBPF, value: {{ $relay.offload.mode }}}
{{- if $relay.offload.internalIpv4 }}
- {name: EBPF_INT4_ADDR, value: {{ $relay.offload.internalIpv4 | quote }}}
{{- end }}
{{- if $relay.offload.internalIpv6 }}
- {name: EBPF_INT6_ADDR, value: {{ $relay.offload.internalIpv6 | quote }}}
{{- end }}
{{- if $relay.offload.genericFromPeer }}
- {name: POSTERN_EBPF_GENERIC_FROM_PEER, value: "true"}
{{- end }}
{{- end }}
{{- with $relay.peers.allow }}
- {name: POSTERN_PEERS_ALLOW, value: {{ join "," . | quote }}}
{{- end }}
{{- with $relay.peers.deny }}
- {name: POSTERN_PEERS_DENY, value: {{ join "," . | quote }}}
{{- end }}
{{- end -}}

{{/* relay.yaml: what relay.standalone.config says, and what other values say of addresses, ports, peers and offload. */}}
{{- define "postern.relayFile" -}}
{{- $relay := .Values.relay -}}
{{- $address := $relay.publicAddress -}}
{{- $any := list -}}
{{- if or $address.fromNode $address.ipv4 }}{{ $any = append $any "0.0.0.0" }}{{ end -}}
{{- if or $address.fromNode $address.ipv6 }}{{ $any = append $any "[::]" }}{{ end -}}
{{- $listen := list -}}
{{- $listenTls := list -}}
{{- range $any -}}
{{- $listen = append $listen (printf "%s:%d" . (int $relay.listenPort)) -}}
{{- $listenTls = append $listenTls (printf "%s:%d" . (int $relay.standalone.tlsPort)) -}}
{{- end -}}
{{- $file := dict "listen" $listen "ports" (list (int $relay.lowestPort) (int $relay.highestPort)) -}}
{{- $public := dict -}}
{{- if $address.ipv4 }}{{ $_ := set $public "ipv4" $address.ipv4 }}{{ end -}}
{{- if $address.ipv6 }}{{ $_ := set $public "ipv6" $address.ipv6 }}{{ end -}}
{{- if $public }}{{ $_ := set $file "public" $public }}{{ end -}}
{{- if $relay.standalone.tlsSecret -}}
{{- $_ := set $file "tls" (dict "certificate" "/etc/postern/tls/tls.crt" "key" "/etc/postern/tls/tls.key" "listen" $listenTls) -}}
{{- end -}}
{{- $peers := dict -}}
{{- if $relay.peers.allow }}{{ $_ := set $peers "allow" $relay.peers.allow }}{{ end -}}
{{- if $relay.peers.deny }}{{ $_ := set $peers "deny" $relay.peers.deny }}{{ end -}}
{{- if $peers }}{{ $_ := set $file "peers" $peers }}{{ end -}}
{{- if include "postern.offload" . -}}
{{- $offload := $relay.offload -}}
{{- $_ := set $file "ebpf" (dict "interfaces" $offload.interfaces "mode" $offload.mode "generic_from_peer" $offload.genericFromPeer) -}}
{{- $internal := dict -}}
{{- if $offload.internalIpv4 }}{{ $_ := set $internal "ipv4" $offload.internalIpv4 }}{{ end -}}
{{- if $offload.internalIpv6 }}{{ $_ := set $internal "ipv6" $offload.internalIpv6 }}{{ end -}}
{{- if $internal }}{{ $_ := set $file "internal" $internal }}{{ end -}}
{{- end -}}
{{- merge $file $relay.standalone.config | toYaml -}}
{{- end -}}

{{/* Capabilities for what an unprivileged process may not do; nothing if there is no such thing. */}}
{{- define "postern.relayCapabilities" -}}
{{- $relay := .Values.relay -}}
{{- $needed := list -}}
{{- if include "postern.offload" . }}{{ $needed = concat $needed (list "NET_ADMIN" "NET_RAW" "BPF" "PERFMON") }}{{ end -}}
{{- if or (lt (int $relay.listenPort) 1024) (and $relay.standalone.tlsSecret (lt (int $relay.standalone.tlsPort) 1024)) -}}
{{- $needed = append $needed "NET_BIND_SERVICE" -}}
{{- end -}}
{{- join ", " $needed -}}
{{- end -}}

{{/* What a stand-alone relay excludes, and what it cannot do without. */}}
{{- define "postern.checkStandalone" -}}
{{- $v := .Values -}}
{{- $alone := $v.relay.standalone -}}
{{- if or $v.portal.enabled $v.gateway.enabled $v.portalUrl -}}
{{- fail "relay.standalone.enabled is true: expected portal.enabled=false, gateway.enabled=false and no portalUrl, for this relay joins no portal" -}}
{{- end -}}
{{- if or $v.relay.token.value $v.relay.token.existingSecret -}}
{{- fail "relay.token is set with relay.standalone.enabled: expected none, for this relay joins no portal" -}}
{{- end -}}
{{- if and $alone.config $alone.existingSecret -}}
{{- fail "relay.standalone.config and relay.standalone.existingSecret are both set: expected one of the two" -}}
{{- end -}}
{{- if and $alone.existingSecret (or $v.relay.peers.allow $v.relay.peers.deny) -}}
{{- fail "relay.peers is set with relay.standalone.existingSecret: expected peers in the file that it holds" -}}
{{- end -}}
{{- if not $alone.existingSecret -}}
{{- if not $alone.config.realm -}}
{{- fail "relay.standalone.config.realm is not set: expected a name such as example.org, or relay.standalone.existingSecret" -}}
{{- end -}}
{{- if not (or $alone.config.users $alone.config.rest_secrets) -}}
{{- fail "relay.standalone.config has neither users nor rest_secrets: expected one of them, or nobody could use the relay" -}}
{{- end -}}
{{- $instead := dict "listen" "relay.listenPort" "public" "relay.publicAddress" "internal" "relay.offload.internalIpv4 and internalIpv6" "ports" "relay.lowestPort and highestPort" "peers" "relay.peers" "ebpf" "relay.offload" "tls" "relay.standalone.tlsSecret" -}}
{{- range $key, $_ := $alone.config -}}
{{- if hasKey $instead $key -}}
{{- fail (printf "relay.standalone.config.%s is set: expected %s instead" $key (get $instead $key)) -}}
{{- else if not (has $key (list "realm" "users" "rest_secrets" "quotas" "alternate" "trusted_proxies")) -}}
{{- fail (printf "relay.standalone.config.%s is not known: expected realm, users, rest_secrets, quotas, alternate or trusted_proxies" $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $alone.tlsSecret (eq (int $alone.tlsPort) (int $v.relay.listenPort)) -}}
{{- fail (printf "relay.standalone.tlsPort is %d: expected another port than relay.listenPort" (int $alone.tlsPort)) -}}
{{- end -}}
{{- end -}}
