{{/* Every service is one call of "sightline.component" (below): workload, Service, PodDisruptionBudget. */}}

{{- define "sightline.fullname" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name .Release.Name) }}{{ $name = printf "%s-%s" .Release.Name .Chart.Name }}{{ end -}}
{{- .Values.fullnameOverride | default $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "sightline.selector" -}}
app.kubernetes.io/name: sightline
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end -}}

{{- define "sightline.labels" -}}
{{ include "sightline.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* [registry/]repository/<image>:<tag>[@digest]. Context: root, image, suffix of the tag. */}}
{{- define "sightline.image" -}}
{{- $image := .root.Values.image -}}
{{- $suffix := .suffix | default "" -}}
{{- with $image.registry }}{{ . }}/{{ end }}{{ $image.repository }}/{{ .image }}:{{ $image.tag | default .root.Chart.AppVersion }}{{ $suffix }}
{{- with index $image.digests (printf "%s%s" .image $suffix) }}@{{ . }}{{ end }}
{{- end -}}

{{/* host:port of a service. Context: root, name, port. */}}
{{- define "sightline.address" -}}
{{ include "sightline.fullname" .root }}-{{ .name }}:{{ .port }}
{{- end -}}

{{/* How gateways hear of workers: what the values say, or else what they allow. */}}
{{- define "sightline.discovery" -}}
{{- .Values.gateway.workers.discovery | default (ternary "kubernetes" "dns" .Values.rbac.create) -}}
{{- end -}}

{{/* The service account of gateways that ask the cluster; empty: they have no token of any. */}}
{{- define "sightline.gatewayAccount" -}}
{{- if eq (include "sightline.discovery" .) "kubernetes" -}}
{{- if not (or .Values.rbac.create .Values.gateway.serviceAccount) -}}
{{- fail "gateway.serviceAccount: without rbac.create, name one that may list, get and watch endpointslices" -}}
{{- end -}}
{{- .Values.gateway.serviceAccount | default (printf "%s-gateway" (include "sightline.fullname" .)) -}}
{{- end -}}
{{- end -}}

{{/*
One service. Context:
  root    the chart's context
  name    of the component: also the key of its values and the end of its objects' names
  kind    Deployment or StatefulSet; the Service of a StatefulSet is headless
  image   whole image reference
  user    numeric user it runs as
  ports   name → number; "grpc" is also what health is asked on; "metrics" gets a Service of its own,
          which stays inside the cluster whatever the other one does
  startup seconds that it may take to load and warm up
  probe   replaces the gRPC health check
  args    replaces the image's arguments
  prefix  of its environment variables; none: it is not ours and is not told to log or drain
  env     variable → value; empty values are left out; the values' `env` goes before it
  serviceAccount  whose token its pods get; empty: none
  envFrom further entries of the container's env, as a list
  volumes, mounts, claims, limits, pod   further parts, as in the Kubernetes API
*/}}
{{- define "sightline.component" -}}
{{- $root := .root -}}
{{- $values := index $root.Values .name -}}
{{- $fullname := printf "%s-%s" (include "sightline.fullname" $root) .name -}}
{{- $stateful := eq .kind "StatefulSet" -}}
{{- $drain := int $root.Values.drainSeconds -}}
{{- $env := dict -}}
{{- with .prefix }}
{{- $_ := set $env (printf "%s_LOG_LEVEL" .) $root.Values.logLevel -}}
{{- $_ := set $env (printf "%s_DRAIN_S" .) $drain -}}
{{- end }}
{{- $env = mergeOverwrite $env (.env | default dict) ($values.env | default dict) -}}
{{- $probe := .probe | default (dict "grpc" (dict "port" (int .ports.grpc))) -}}
apiVersion: apps/v1
kind: {{ .kind }}
metadata:
  name: {{ $fullname }}
  labels: {{- include "sightline.labels" . | nindent 4 }}
spec:
  replicas: {{ $values.replicas | default 1 }}
  selector:
    matchLabels: {{- include "sightline.selector" . | nindent 6 }}
  {{- if $stateful }}
  serviceName: {{ $fullname }}
  podManagementPolicy: Parallel
  {{- else if $values.hostNetwork }}
  strategy: { type: Recreate } # two pods cannot have one node's ports
  {{- end }}
  template:
    metadata:
      labels: {{- include "sightline.labels" . | nindent 8 }}
      {{- with $values.podAnnotations }}
      annotations: {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      {{- with .serviceAccount }}
      serviceAccountName: {{ . }}
      {{- end }}
      automountServiceAccountToken: {{ not (empty .serviceAccount) }}
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ add $drain 15 }} # the pause before SIGTERM, the drain, the end
      securityContext:
        runAsNonRoot: true
        runAsUser: {{ .user }}
        runAsGroup: {{ .user }}
        fsGroup: {{ .user }}
        fsGroupChangePolicy: OnRootMismatch # a cache of models holds many files
        seccompProfile: { type: RuntimeDefault }
      {{- with $root.Values.image.pullSecrets }}
      imagePullSecrets:
        {{- range . }}
        - name: {{ . }}
        {{- end }}
      {{- end }}
      {{- with .pod }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
      containers:
        - name: {{ .name }}
          image: {{ .image | quote }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          {{- with .args }}
          args: {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- if or $env .envFrom }}
          env:
            {{- range $variable, $value := $env }}
            {{- if ne (toString $value) "" }}
            - name: {{ $variable }}
              value: {{ toString $value | quote }}
            {{- end }}
            {{- end }}
            {{- with .envFrom }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          {{- end }}
          {{- with $values.envSecret }}
          envFrom:
            - secretRef: { name: {{ . }} }
          {{- end }}
          ports:
            {{- range $name, $port := .ports }}
            - { name: {{ $name }}, containerPort: {{ $port }} }
            {{- end }}
          startupProbe:
            {{- toYaml $probe | nindent 12 }}
            periodSeconds: 2
            timeoutSeconds: 2
            failureThreshold: {{ div (add (.startup | default 300) 1) 2 }}
          readinessProbe:
            {{- toYaml $probe | nindent 12 }}
            periodSeconds: 5
            timeoutSeconds: 2
            failureThreshold: 2
          livenessProbe:
            {{- toYaml $probe | nindent 12 }}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          lifecycle: # keeps serving while the cluster takes the pod out of its Services
            preStop: { exec: { command: [sleep, "3"] } }
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: { drop: [ALL] }
          resources:
            {{- toYaml (mergeOverwrite (deepCopy $values.resources) (dict "limits" (.limits | default dict))) | nindent 12 }}
          volumeMounts:
            - { name: tmp, mountPath: /tmp }
            {{- with .mounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - { name: tmp, emptyDir: {} }
        {{- with .volumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $values.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with concat (.tolerations | default list) $values.tolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.affinity }}
      affinity: {{- toYaml . | nindent 8 }}
      {{- end }}
  {{- with .claims }}
  volumeClaimTemplates: {{- toYaml . | nindent 4 }}
  {{- end }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $fullname }}
  labels: {{- include "sightline.labels" . | nindent 4 }}
  {{- with ($values.service).annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- if $stateful }}
  clusterIP: None
  publishNotReadyAddresses: true # a name that is known while its pod warms up need not be looked up again
  {{- else }}
  type: {{ ($values.service).type | default "ClusterIP" }}
  {{- end }}
  selector: {{- include "sightline.selector" . | nindent 4 }}
  ports:
    {{- range $name, $port := omit .ports "metrics" }}
    - { name: {{ $name }}, port: {{ $port }}, targetPort: {{ $name }} }
    {{- end }}
{{- if hasKey .ports "metrics" }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $fullname }}-metrics
  labels: {{- include "sightline.labels" . | nindent 4 }}
spec:
  clusterIP: None
  publishNotReadyAddresses: true # a pod that is not ready is one to look at
  selector: {{- include "sightline.selector" . | nindent 4 }}
  ports:
    - { name: metrics, port: {{ .ports.metrics }}, targetPort: metrics }
{{- end }}
{{- with $values.podDisruptionBudget }}
{{- if .enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $fullname }}
  labels: {{- include "sightline.labels" $ | nindent 4 }}
spec:
  maxUnavailable: {{ .maxUnavailable }}
  selector:
    matchLabels: {{- include "sightline.selector" $ | nindent 6 }}
{{- end }}
{{- end }}
{{- end -}}
