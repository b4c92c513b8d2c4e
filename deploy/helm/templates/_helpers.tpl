{{- define "name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "labels" -}}
{{ include "selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- /* The pod of the StatefulSet and of the Deployment. */ -}}
{{- define "pod" -}}
metadata:
  labels:
    {{- include "labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # A change to the Caddyfile restarts the pods, one after the other.
    checksum/config: {{ include (print .Template.BasePath "/configmap.yaml") . | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: caddy
      image: {{ .Values.image.repository }}
        {{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      ports:
        - {name: http, containerPort: 8080}
        - {name: internal, containerPort: 2020}
      # A pod gets its first request once it has read the database. From then on, it serves cached
      # keys until its lease expires, so an outage of the database must neither take it out of the
      # Service nor restart it: that would cut off everybody, and empty the caches.
      startupProbe:
        httpGet: {path: /health, port: internal}
        periodSeconds: 2
        failureThreshold: 150
        timeoutSeconds: 3
      readinessProbe:
        httpGet: {path: /alive, port: internal}
        periodSeconds: 5
        timeoutSeconds: 3
      livenessProbe:
        httpGet: {path: /alive, port: internal}
        periodSeconds: 10
        failureThreshold: 6
        timeoutSeconds: 5
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - {name: caddyfile, mountPath: /etc/caddy, readOnly: true}
        - {name: data, mountPath: /data}
        - {name: config, mountPath: /config}
        {{- if .Values.secrets }}
        - {name: secrets, mountPath: /run/secrets, readOnly: true}
        {{- end }}
  volumes:
    - name: caddyfile
      configMap: {name: {{ include "name" . }}}
    - name: config
      emptyDir: {medium: Memory, sizeLimit: 16Mi}
    {{- if eq .Values.database.kind "postgres" }}
    - name: data
      emptyDir: {sizeLimit: 64Mi}
    {{- end }}
    {{- with .Values.secrets }}
    - name: secrets
      projected:
        defaultMode: 0440
        sources:
          {{- range . }}
          - secret:
              name: {{ .name }}
              items:
                {{- range .items }}
                - {key: {{ . }}, path: {{ . }}}
                {{- end }}
          {{- end }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .Values.affinity }}
  affinity:
    {{- toYaml .Values.affinity | nindent 4 }}
  {{- else if eq .Values.database.kind "postgres" }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "selector" . | nindent 10 }}
  {{- end }}
{{- end -}}
