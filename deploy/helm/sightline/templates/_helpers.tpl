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
{{- with .pool }}
sightline-pool: {{ . }}
{{- end }}
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

{{/* The name of a component's objects. Context: root, name, pool (of workers, "": those without one). */}}
{{- define "sightline.object" -}}
{{- $object := printf "%s-%s" (include "sightline.fullname" .root) .name -}}
{{- with .pool }}{{ $object = printf "%s-%s" $object . }}{{ end -}}
{{- if gt (len $object) 55 }}{{ fail (printf "%s is too long a name: shorten the release's or workers[].name" $object) }}{{ end -}}
{{- $object -}}
{{- end -}}

{{/* What keeps workers: a StatefulSet where each has a volume or is told by its name, else a Deployment,
whose pods are replaced also while their node is lost. Context: root, values. */}}
{{- define "sightline.workerKind" -}}
{{- $cache := .values.cache -}}
{{- $named := or (eq (include "sightline.discovery" .root) "static") (and $cache.persistent (not (or $cache.claim $cache.hostPath))) -}}
{{- if and $named (eq .values.kind "Deployment") -}}
{{- fail "worker.kind: a volume for each worker (cache.persistent), or their names (gateway.workers.discovery=static), need a StatefulSet" -}}
{{- end -}}
{{- .values.kind | default (ternary "StatefulSet" "Deployment" $named) -}}
{{- end -}}

{{/* Refuses a volume of another size or class than the one that is there: Kubernetes would refuse it, too, but
only after half of an upgrade. Context: root, object, size, storageClass, value (its name). */}}
{{- define "sightline.sameVolume" -}}
{{- $there := lookup "apps/v1" "StatefulSet" .root.Release.Namespace .object | default dict -}}
{{- range ($there.spec | default dict).volumeClaimTemplates -}}
{{- $was := .spec.resources.requests.storage -}}
{{- if ne (toString $was) (toString $.size) -}}
{{- fail (printf "%s.size is %s, and the volumes of %s have %s, which cannot be changed in place: enlarge the PersistentVolumeClaims, then `kubectl delete statefulset %s --cascade=orphan`, then upgrade" $.value $.size $.object $was $.object) -}}
{{- end -}}
{{- if ne (.spec.storageClassName | default "") $.storageClass -}}
{{- if or $.storageClass (not (.spec.storageClassName)) -}}
{{- fail (printf "%s.storageClass is %q, and the volumes of %s are of %q, which cannot be changed in place" $.value $.storageClass $.object (.spec.storageClassName | default "")) -}}
{{- end -}}
{{- end -}}
{{- end -}}
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
  pool    of workers: a further end of their names, and a label of theirs
  values  instead of those under its name
  kind    Deployment or StatefulSet
  headless  whether its Service has no address of its own: callers see each pod
  autoscaled  whether somebody else decides how many there are
  surge   pods that a rollout of a Deployment may have too many; 0: one is stopped first
  image   whole image reference
  user    numeric user it runs as
  ports   name → number; "grpc" is also what health is asked on; "metrics" gets a Service of its own,
          which stays inside the cluster whatever the other one does, and "peer" none
  startup seconds that it may take to load and warm up
  probe   replaces the gRPC health check
  service values of its Service, where it is not headless
  args    replaces the image's arguments
  prefix  of its environment variables; none: it is not ours and is not told to log or drain
  env     variable → value; empty values are left out; the values' `env` goes before it
  serviceAccount  whose token its pods get; empty: none
  envFrom further entries of the container's env, as a list
  volumes, mounts, claims, limits, pod   further parts, as in the Kubernetes API
*/}}
{{- define "sightline.component" -}}
{{- $root := .root -}}
{{- $values := .values | default (index $root.Values .name) -}}
{{- $fullname := include "sightline.object" . -}}
{{- $service := .service | default dict -}}
{{- $stateful := eq .kind "StatefulSet" -}}
{{- $drain := int $root.Values.drainSeconds -}}
{{- $env := dict -}}
{{- with .prefix }}
{{- $_ := set $env (printf "%s_LOG_LEVEL" .) $root.Values.logLevel -}}
{{- $_ := set $env (printf "%s_DRAIN_S" .) $drain -}}
{{- $_ := set $env (printf "%s_EDGE" .) (ternary "1" "" $root.Values.edge) -}}
{{- if $root.Values.traces.endpoint }}
{{- $_ := set $env (printf "%s_TRACES" .) $root.Values.traces.endpoint -}}
{{- $_ := set $env (printf "%s_TRACES_SHARE" .) $root.Values.traces.share -}}
{{- end }}
{{- end }}
{{- $mounts := .mounts | default list -}}
{{- $volumes := .volumes | default list -}}
{{- $secured := and .prefix $root.Values.peers.secret -}}
{{- if $secured }}
{{- range $variable, $file := dict "CA" "ca.crt" "CERT" "tls.crt" "KEY" "tls.key" }}
{{- $_ := set $env (printf "%s_PEER_%s" $.prefix $variable) (printf "/run/secrets/peers/%s" $file) -}}
{{- end }}
{{- $_ := set $env (printf "%s_PEER_NAME" .prefix) $root.Values.peers.name -}}
{{- $volumes = append $volumes (dict "name" "peers" "secret" (dict "secretName" $root.Values.peers.secret "defaultMode" 288)) -}}
{{- $mounts = append $mounts (dict "name" "peers" "mountPath" "/run/secrets/peers" "readOnly" true) -}}
{{- end }}
{{- $env = mergeOverwrite $env (.env | default dict) ($values.env | default dict) -}}
{{- $probe := .probe | default (dict "grpc" (dict "port" (int .ports.grpc))) -}}
{{- if $secured }}{{ $probe = dict "httpGet" (dict "path" "/healthz" "port" "metrics") }}{{ end -}}{{/* a gRPC probe has no certificate */}}
apiVersion: apps/v1
kind: {{ .kind }}
metadata:
  name: {{ $fullname }}
  labels: {{- include "sightline.labels" . | nindent 4 }}
spec:
  {{- if not .autoscaled }}
  replicas: {{ $values.replicas | default 1 }}
  {{- end }}
  {{- if .prefix }}
  minReadySeconds: 5 # so long a new pod must be ready before an old one is stopped: its callers hear of it
  {{- end }}
  selector:
    matchLabels: {{- include "sightline.selector" . | nindent 6 }}
  {{- if $stateful }}
  serviceName: {{ $fullname }}
  podManagementPolicy: Parallel
  {{- else }}
  {{- $surge := int (ternary .surge 1 (hasKey . "surge")) }}
  {{- if $values.hostNetwork }}{{ $surge = 0 }}{{ end }}{{/* two pods cannot have one node's ports */}}
  strategy:
    rollingUpdate: { maxSurge: {{ $surge }}, maxUnavailable: {{ ternary 0 1 (gt $surge 0) }} }
  {{- end }}
  template:
    metadata:
      labels:
        {{- include "sightline.labels" . | nindent 8 }}
        {{- range $label, $value := $values.podLabels }}
        {{ $label }}: {{ toString $value | quote }}
        {{- end }}
      annotations:
        {{- /* Node autoscalers may move pods with these: nothing in them outlives a process. */}}
        {{- $scratch := list "tmp" }}
        {{- range $volumes }}{{ if and (hasKey . "emptyDir") (ne .name "data") }}{{ $scratch = append $scratch .name }}{{ end }}{{ end }}
        cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes: {{ join "," $scratch | quote }}
        {{- range $annotation, $value := $values.podAnnotations }}
        {{ $annotation }}: {{ toString $value | quote }}
        {{- end }}
    spec:
      {{- with .serviceAccount | default $values.serviceAccount }}
      serviceAccountName: {{ . }}
      {{- end }}
      {{- with $values.priorityClassName }}
      priorityClassName: {{ . }}
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
            - { name: {{ $name }}, containerPort: {{ $port }}{{ if eq $name "srt" }}, protocol: UDP{{ end }} }
            {{- if eq $name "webrtc" }}
            - { name: webrtc-udp, containerPort: {{ $port }}, protocol: UDP }
            {{- end }}
            {{- end }}
          startupProbe:
            {{- toYaml $probe | nindent 12 }}
            periodSeconds: 2
            timeoutSeconds: 2
            failureThreshold: {{ div (add (.startup | default 300) 1) 2 }}
          readinessProbe:
            {{- toYaml (ternary (dict "httpGet" (dict "path" "/readyz" "port" "metrics")) $probe (not (empty .prefix))) | nindent 12 }}
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
            {{- with concat $mounts ($values.extraVolumeMounts | default list) }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - { name: tmp, emptyDir: {} }
        {{- with concat $volumes ($values.extraVolumes | default list) }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $values.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      tolerations:
        {{- with concat (.tolerations | default list) $values.tolerations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- range list "not-ready" "unreachable" }}{{/* how long a lost node keeps its pods from being replaced */}}
        - { key: node.kubernetes.io/{{ . }}, operator: Exists, effect: NoExecute, tolerationSeconds: {{ int $root.Values.nodeLostSeconds }} }
        {{- end }}
      {{- $apart := $values.spread | default "none" }}
      {{- $affinity := deepCopy $values.affinity }}
      {{- if and (ne $apart "none") (not $affinity.podAntiAffinity) }}
      {{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (include "sightline.selector" . | fromYaml)) }}
      {{- if eq $apart "required" }}
      {{- $_ := set $affinity "podAntiAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $term)) }}
      {{- else }}
      {{- $_ := set $affinity "podAntiAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" (list (dict "weight" 100 "podAffinityTerm" $term))) }}
      {{- end }}
      {{- end }}
      {{- with $affinity }}
      affinity: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if ne $apart "none" }}
      topologySpreadConstraints: # evenly over zones, where there are several
        - maxSkew: 1
          topologyKey: topology.kubernetes.io/zone
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels: {{- include "sightline.selector" . | nindent 14 }}
          {{- if not $stateful }}
          matchLabelKeys: [pod-template-hash]
          {{- end }}
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
  {{- if $service.annotations }}
  annotations:
    {{- range $annotation, $value := $service.annotations }}
    {{ $annotation }}: {{ toString $value | quote }}
    {{- end }}
  {{- end }}
spec:
  {{- if .headless }}
  clusterIP: None
  publishNotReadyAddresses: true # a name that is known while its pod warms up need not be looked up again
  {{- else }}
  type: {{ $service.type | default "ClusterIP" }}
  {{- with $service.externalTrafficPolicy }}
  externalTrafficPolicy: {{ . }}
  {{- end }}
  {{- with $service.loadBalancerClass }}
  loadBalancerClass: {{ . }}
  {{- end }}
  {{- with $service.loadBalancerSourceRanges }}
  loadBalancerSourceRanges: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  selector: {{- include "sightline.selector" . | nindent 4 }}
  ports:
    {{- range $name, $port := omit .ports "metrics" "peer" }}
    {{- $node := int (index ($service.nodePorts | default dict) $name | default 0) }}
    - { name: {{ $name }}, port: {{ $port }}, targetPort: {{ $name }}{{ if eq $name "srt" }}, protocol: UDP{{ end }}{{ if $node }}, nodePort: {{ $node }}{{ end }} }
    {{- if eq $name "webrtc" }}
    - { name: webrtc-udp, port: {{ $port }}, targetPort: webrtc-udp, protocol: UDP{{ if $node }}, nodePort: {{ $node }}{{ end }} }
    {{- end }}
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
