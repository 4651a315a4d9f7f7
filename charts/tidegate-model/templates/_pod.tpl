{{- define "tidegate-model.pod" -}}
serviceAccountName: {{ include "tidegate-model.account" . }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "tidegate-model.podSecurity" . | nindent 2 }}
terminationGracePeriodSeconds: {{ .Values.graceSeconds }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.gpu.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $gpu := and .Values.gpu.count .Values.gpu.tolerate }}
{{- if or $gpu .Values.tolerations }}
tolerations:
{{- if $gpu }}
- {key: {{ .Values.gpu.resource }}, operator: Exists, effect: NoSchedule}
{{- end }}
{{- with .Values.tolerations }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}
{{- if .Values.spread.enabled }}
topologySpreadConstraints:
- maxSkew: 1
  topologyKey: {{ .Values.spread.topologyKey }}
  whenUnsatisfiable: {{ .Values.spread.whenUnsatisfiable }}
  labelSelector:
    matchLabels:
      {{- include "tidegate-model.selector" . | nindent 6 }}
  # Each arm by itself: the hash of the pods tells them apart.
  matchLabelKeys: [rollouts-pod-template-hash]
{{- end }}
containers:
- name: model
  image: {{ include "tidegate-model.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  ports:
  - {name: http, containerPort: 3000, protocol: TCP}
  env:
  - {name: TIDEGATE_WORKERS, value: {{ .Values.workers | quote }}}
  {{- if .Values.capture.enabled }}
  - name: TIDEGATE_CAPTURE
    value: {{ include "tidegate-model.capture" . | quote }}
  {{- end }}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- if or .Values.capture.existingSecret .Values.extraEnvFrom }}
  envFrom:
  {{- with .Values.capture.existingSecret }}
  - secretRef: {name: {{ . }}}
  {{- end }}
  {{- with .Values.extraEnvFrom }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- end }}
  # A process that answers is alive; it is ready when the model has repeated its golden answers.
  startupProbe:
    httpGet: {path: /readyz, port: http}
    periodSeconds: 5
    timeoutSeconds: 3
    failureThreshold: {{ max 1 (div (add (int .Values.startSeconds) 4) 5) }}
  readinessProbe: {httpGet: {path: /readyz, port: http}, periodSeconds: 5, timeoutSeconds: 3}
  livenessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 3}
  {{- if .Values.drainSeconds }}
  lifecycle: {preStop: {sleep: {seconds: {{ .Values.drainSeconds }}}}}
  {{- end }}
  resources:
    {{- include "tidegate-model.resources" . | nindent 4 }}
  securityContext:
    {{- include "tidegate-model.containerSecurity" . | nindent 4 }}
  volumeMounts:
  - {name: tmp, mountPath: /tmp}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
volumes:
- {name: tmp, emptyDir: {}}
{{- with .Values.extraVolumes }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end -}}

{{/* GPUs are limits; the API server makes the request from them. */}}
{{- define "tidegate-model.resources" -}}
{{- $all := deepCopy .Values.resources -}}
{{- if .Values.gpu.count -}}
{{- $limits := merge (dict .Values.gpu.resource .Values.gpu.count) (default (dict) $all.limits) -}}
{{- $_ := set $all "limits" $limits -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}
