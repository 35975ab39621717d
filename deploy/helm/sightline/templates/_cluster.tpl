{{/* Where the included Redis is, without its password. */}}
{{- define "sightline.redisUrl" -}}
{{- $redis := .Values.redis -}}
{{- $address := include "sightline.address" (dict "root" . "name" "redis" "port" 6379) -}}
{{- ternary "rediss" "redis" (ne $redis.tls.secret "") }}://{{ $address }}/0{{ if $redis.tls.secret }}?ssl_ca_certs=/run/secrets/redis-ca/ca.crt{{ end }}
{{- end -}}

{{/* The volume with the authority that vouches for Redis, as YAML; empty: the system's do. */}}
{{- define "sightline.redisAuthority" -}}
{{- $redis := .Values.redis -}}
{{- $secret := ternary $redis.tls.secret $redis.caSecret $redis.enabled -}}
{{- with $secret }}
name: redis-ca
secret: { secretName: {{ . }}, defaultMode: 0440, items: [{ key: ca.crt, path: ca.crt }] }
{{- end -}}
{{- end -}}

{{/* What gateways share: where leases on sessions are kept, the secret by which they know each other, and where
each is reached by the others. A list of environment variables. */}}
{{- define "sightline.cluster" -}}
{{- $redis := .Values.redis -}}
- name: GATEWAY_CLUSTER_SECRET
  valueFrom:
    secretKeyRef:
      name: {{ .Values.gateway.clusterSecret.name | default (printf "%s-cluster" (include "sightline.fullname" .)) }}
      key: {{ .Values.gateway.clusterSecret.key }}
- name: GATEWAY_PEER_HOST
  valueFrom: { fieldRef: { fieldPath: status.podIP } }
- name: GATEWAY_PEER_PORT
  value: {{ include "sightline.peerPort" . | quote }}
{{- if $redis.enabled }}
- name: GATEWAY_REDIS_URL
  value: {{ include "sightline.redisUrl" . }}
- name: GATEWAY_REDIS_PASSWORD_FILE
  value: /run/secrets/redis/password
{{- else if $redis.url }}
- name: GATEWAY_REDIS_URL
  value: {{ $redis.url | quote }}
{{- else }}
- name: GATEWAY_REDIS_URL
  valueFrom: { secretKeyRef: {{ toJson $redis.urlSecret }} }
{{- end }}
{{- end -}}

{{/* Where gateways speak with each other; in no Service, for each asks one of the others. */}}
{{- define "sightline.peerPort" -}}50052{{- end -}}
