{{/* Name of the objects: a DNS label. */}}
{{- define "tidegate-model.name" -}}
{{- default (regexReplaceAll "[^a-z0-9-]+" (lower .Values.model) "-" | trunc 52 | trimAll "-") .Values.nameOverride -}}
{{- end -}}

{{/* What selects the pods of both arms: never changes, so no version in it. */}}
{{- define "tidegate-model.selector" -}}
app.kubernetes.io/name: {{ include "tidegate-model.name" . }}
app.kubernetes.io/component: model
{{- end -}}

{{- define "tidegate-model.labels" -}}
{{ include "tidegate-model.selector" . }}
app.kubernetes.io/part-of: tidegate
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
tidegate.dev/model: {{ .Values.model | trunc 63 | trimAll "-_." | quote }}
tidegate.dev/environment: {{ .Values.environment | trunc 63 | trimAll "-_." | quote }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Metadata of an object: `list . NAME`. */}}
{{- define "tidegate-model.metadata" -}}
{{- $root := index . 0 -}}
name: {{ index . 1 }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "tidegate-model.labels" $root | nindent 2 }}
{{- with $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "tidegate-model.account" -}}
{{- $own := ternary (include "tidegate-model.name" .) "default" .Values.serviceAccount.create -}}
{{- default $own .Values.serviceAccount.name -}}
{{- end -}}

{{- define "tidegate-model.image" -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- end -}}

{{/* What the restricted pod security standard asks of a pod, and of a container. */}}
{{- define "tidegate-model.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "tidegate-model.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Whether Argo routes by the gateway: without one the share of pods is the share of requests. */}}
{{- define "tidegate-model.routed" -}}
{{- if eq .Values.traffic.router "gatewayAPI" }}yes{{ end -}}
{{- end -}}

{{/* Whether the smoke request takes the header route. */}}
{{- define "tidegate-model.forced" -}}
{{- if and (include "tidegate-model.routed" .) .Values.ladder.smoke.enabled .Values.ladder.smoke.address }}yes{{ end -}}
{{- end -}}

{{/* Times that a step asks the judge: beyond its end, so that the answer after it is heard. */}}
{{- define "tidegate-model.horizon" -}}
{{- $interval := int (index . 1) -}}
{{- add 2 (div (add (int (index . 0)) (sub $interval 1)) $interval) -}}
{{- end -}}

{{/* What every analysis is told. */}}
{{- define "tidegate-model.args" -}}
- {name: rollout, value: {{ include "tidegate-model.name" . | quote }}}
- {name: model, value: {{ .Values.model | quote }}}
- {name: environment, value: {{ .Values.environment | quote }}}
- {name: id, value: {{ .Values.ladder.id | quote }}}
- {name: experiment, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
- {name: stable-hash, valueFrom: {podTemplateHashValue: Stable}}
- {name: canary-hash, valueFrom: {podTemplateHashValue: Latest}}
{{- end -}}

{{/* What the serving process records, as it reads it. */}}
{{- define "tidegate-model.capture" -}}
{{- $capture := .Values.capture -}}
{{- $said := dict "store" $capture.store "stream" (printf "%s.%s" .Values.model .Values.environment) "unit_header" $capture.unitHeader "flush" $capture.flushSeconds "exclude" $capture.exclude "hash" $capture.hash -}}
{{- if $capture.id }}{{ $_ := set $said "id" $capture.id }}{{ end -}}
{{- toJson $said -}}
{{- end -}}
