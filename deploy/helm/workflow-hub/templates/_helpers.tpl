{{- define "wfhub.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "wfhub.labels" -}}
app.kubernetes.io/name: workflow-hub
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "wfhub.selector" -}}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "wfhub.meta" -}}
name: {{ include "wfhub.name" .root }}-{{ .component }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "wfhub.labels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "wfhub.podmeta" -}}
labels:
  {{- include "wfhub.labels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .component }}
{{- if and .root.Values.observability.metrics.enabled (has .component (list "api" "scheduler" "proof-store" "gateway" "agent-runner")) }}
annotations:
  prometheus.io/scrape: "true"
  prometheus.io/port: "9464"
{{- end }}
{{- if and (eq .component "nats") .root.Values.nats.subscribers }}
annotations:
  checksum/subscribers: {{ .root.Values.nats.subscribers | sha256sum }} # read at start alone
{{- end }}
{{- end }}

{{- define "wfhub.image" -}}
{{- $tag := .root.Values.image.tag | default .root.Chart.AppVersion -}}
{{- with .root.Values.image.registry }}{{ . }}/{{ else }}workflow-hub/{{ end }}{{ .image }}:{{ $tag }}
{{- end }}

{{- /* Every pod: nobody in particular, no token, no capability, read-only root. */ -}}
{{- define "wfhub.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .uid }}
  runAsGroup: {{ .uid }}
  fsGroup: {{ .uid }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "wfhub.confined" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "wfhub.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "wfhub.selector" . | nindent 8 }}
{{- end }}

{{- /* A claim that one node has at a time is the proof-store's, on its node. */ -}}
{{- define "wfhub.besideProofStore" -}}
affinity:
  podAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "wfhub.selector" (dict "root" . "component" "proof-store") | nindent 12 }}
{{- end }}

{{- define "wfhub.messages" -}}
- {name: NATS_URL_FILE, value: /run/wfhub/nats-url}
- {name: NATS_PASSWORD_FILE, value: /run/wfhub/nats-password}
- {name: LOG_LEVEL, value: {{ .Values.logLevel }}}
{{- include "wfhub.observed" . }}
{{- end }}

{{- define "wfhub.ports" -}}
{{- if .http }}{name: http, containerPort: {{ .http }}}{{ end }}
{{- if .root.Values.observability.metrics.enabled }}
{{- if .http }}, {{ end }}{name: metrics, containerPort: 9464}
{{- end }}
{{- end }}

{{- define "wfhub.observed" -}}
{{- if .Values.observability.metrics.enabled }}
- {name: METRICS_LISTEN, value: "0.0.0.0:9464"}
{{- end }}
{{- with .Values.observability.traces.endpoint }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }}}
{{- end }}
{{- end }}

{{/* Bytes: half of a size like 20Gi. */}}
{{- define "wfhub.half" -}}
{{- $unit := get (dict "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776) (regexFind "[A-Z]i$" .) }}
{{- div (mul (regexFind "^[0-9]+" . | int64) $unit) 2 }}
{{- end }}

{{- define "wfhub.natsUrl" -}}
{{- if .Values.nats.bundled -}}
nats://{{ include "wfhub.name" . }}-nats:4222
{{- else -}}
{{ required "nats.url is needed with nats.bundled: false" .Values.nats.url }}
{{- end -}}
{{- end }}

{{- define "wfhub.claim" -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  {{- include "wfhub.meta" . | nindent 2 }}
  annotations: {helm.sh/resource-policy: keep}
spec:
  accessModes: [{{ .claim.accessMode }}]
  {{- with .claim.storageClass }}
  storageClassName: {{ . }}
  {{- end }}
  resources: {requests: {storage: {{ .claim.size }}}}
{{- end }}
