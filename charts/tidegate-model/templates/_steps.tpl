{{/* Steps before the first user: one pod at weight 0, one golden request to it. */}}
{{- define "tidegate-model.before" -}}
{{- $smoke := .Values.ladder.smoke -}}
{{- $name := include "tidegate-model.name" . -}}
{{- if include "tidegate-model.routed" . -}}
- setCanaryScale: {replicas: 1}
{{- if include "tidegate-model.forced" . }}
- setHeaderRoute:
    name: tidegate-force-canary
    match: [{headerName: x-tidegate-arm, headerValue: {exact: canary}}]
{{- end }}
{{- if $smoke.enabled }}
- analysis:
    templates: [{templateName: tidegate-smoke}]
    args:
    {{- include "tidegate-model.args" . | nindent 4 }}
    - {name: image, value: {{ include "tidegate-model.image" . | quote }}}
    - {name: account, value: {{ include "tidegate-model.account" . | quote }}}
    - {name: release, value: {{ .Values.release | quote }}}
    {{- if include "tidegate-model.forced" . }}
    {{- with .Values.traffic.apiKeys }}
    {{- if .existingSecret }}
    - {name: keys, value: {{ .existingSecret | quote }}}
    - {name: key, value: {{ .smokeEntry | quote }}}
    {{- end }}
    {{- end }}
    - {name: address, value: {{ $smoke.address | quote }}}
    - {name: host, value: {{ first (append .Values.traffic.hostnames "") | replace "*" "smoke" | quote }}}
    {{- else }}
    - {name: address, value: "http://{{ $name }}-canary.{{ .Release.Namespace }}:3000"}
    {{- end }}
{{- end }}
{{- if include "tidegate-model.forced" . }}
# No match takes the route away: from here on only the hash says who is on the canary.
- setHeaderRoute: {name: tidegate-force-canary}
{{- end }}
- setCanaryScale: {matchTrafficWeight: true}
{{- end -}}
{{- end -}}

{{/* Index of the first setWeight: the guard has nothing to look at before it. */}}
{{- define "tidegate-model.firstWeight" -}}
{{- $before := include "tidegate-model.before" . | fromYamlArray -}}
{{- len $before -}}
{{- end -}}
