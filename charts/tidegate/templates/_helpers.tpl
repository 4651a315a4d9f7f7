{{/* Labels of a component, which select its pods: `list . COMPONENT`. */}}
{{- define "tidegate.selector" -}}
app.kubernetes.io/name: tidegate-{{ index . 1 }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "tidegate.labels" -}}
{{- $root := index . 0 -}}
{{ include "tidegate.selector" . }}
app.kubernetes.io/part-of: tidegate
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
tidegate.dev/environment: {{ $root.Values.environment | trunc 63 | trimAll "-_." | quote }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Metadata of an object of a component: `list . COMPONENT NAME`. */}}
{{- define "tidegate.metadata" -}}
{{- $root := index . 0 -}}
name: {{ index . 2 }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "tidegate.labels" . | nindent 2 }}
{{- with $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "tidegate.image" -}}
{{- $image := .Values.image -}}
{{ $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default .Chart.AppVersion $image.tag }}{{ end }}
{{- end -}}

{{/* Account of a component: `list COMPONENT ITS-VALUES`. */}}
{{- define "tidegate.account" -}}
{{- default (printf "tidegate-%s" (index . 0)) (index . 1).serviceAccount.name -}}
{{- end -}}

{{- define "tidegate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "tidegate.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "tidegate.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "tidegate.judgeUrl" -}}
{{- default (printf "http://tidegate-judge.%s.svc:8080" .Release.Namespace) .Values.analysisTemplates.judgeUrl -}}
{{- end -}}

{{/* Where MLflow and the store are, for every process of ours. */}}
{{- define "tidegate.env" -}}
- {name: TIDEGATE_ENV, value: {{ .Values.environment | quote }}}
- {name: HOME, value: /tmp}
- name: TIDEGATE_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
{{- with .Values.store.address }}
- {name: TIDEGATE_STORE, value: {{ . | quote }}}
{{- end }}
{{- with .Values.store.endpoint }}
- {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- with .Values.mlflow.address }}
- {name: MLFLOW_TRACKING_URI, value: {{ . | quote }}}
{{- end }}
{{- end -}}

{{- define "tidegate.envFrom" -}}
{{- range compact (list .Values.store.existingSecret .Values.mlflow.existingSecret) }}
- secretRef: {name: {{ . }}}
{{- end }}
{{- end -}}

{{/* A Deployment's pod, but for its containers: `list . COMPONENT ITS-VALUES`. */}}
{{- define "tidegate.pod" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $part := index . 2 -}}
serviceAccountName: {{ include "tidegate.account" (list $name $part) }}
enableServiceLinks: false
securityContext:
  {{- include "tidegate.podSecurity" $root | nindent 2 }}
terminationGracePeriodSeconds: {{ add 25 $root.Values.drainSeconds }}
{{- include "tidegate.pullSecrets" $root }}
{{- with $part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $part.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.tolerations }}
tolerations:
{{- toYaml . | nindent 0 }}
{{- end }}
topologySpreadConstraints:
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "tidegate.selector" . | nindent 6 }}
{{- end -}}

{{/* What every container of a Deployment has: `list . COMPONENT ITS-VALUES`. */}}
{{- define "tidegate.container" -}}
{{- $root := index . 0 -}}
{{- $part := index . 2 -}}
image: {{ include "tidegate.image" $root | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
{{- $from := include "tidegate.envFrom" $root }}
{{- if or $from $part.extraEnvFrom }}
envFrom:
{{- $from }}
{{- with $part.extraEnvFrom }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}
{{- if $root.Values.drainSeconds }}
lifecycle: {preStop: {sleep: {seconds: {{ $root.Values.drainSeconds }}}}}
{{- end }}
resources:
  {{- toYaml $part.resources | nindent 2 }}
securityContext:
  {{- include "tidegate.containerSecurity" $root | nindent 2 }}
volumeMounts:
- {name: tmp, mountPath: /tmp}
- {name: project, mountPath: /project}
{{- if $root.Values.project }}
- {name: config, mountPath: /project/tidegate.yaml, subPath: tidegate.yaml, readOnly: true}
{{- end }}
{{- with $part.extraVolumeMounts }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end -}}

{{- define "tidegate.volumes" -}}
{{- $root := index . 0 -}}
{{- $part := index . 2 -}}
- {name: tmp, emptyDir: {}}
- {name: project, emptyDir: {}}
{{- if $root.Values.project }}
- {name: config, configMap: {name: tidegate-project}}
{{- end }}
{{- with $part.extraVolumes }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end -}}

{{- define "tidegate.podLabels" -}}
{{- $root := index . 0 -}}
{{ include "tidegate.selector" . }}
{{- with merge (dict) (index . 2).podLabels $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "tidegate.podAnnotations" -}}
# A changed project starts the pods again.
checksum/config: {{ printf "%s%s" (index . 0).Values.project (include "tidegate.collector" (index . 0)) | sha256sum }}
{{- with (index . 2).podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end -}}
