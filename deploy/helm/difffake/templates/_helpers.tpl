{{- define "difffake.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "difffake.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "difffake.labels" -}}
{{ include "difffake.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "difffake.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "difffake.name" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "difffake.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Nobody, with no rights, on a root file system that cannot be written. */}}
{{- define "difffake.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "difffake.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* How every command reaches Kafka. Secrets are files, never arguments. */}}
{{- define "difffake.kafkaEnv" -}}
- name: DIFFFAKE_BOOTSTRAP_SERVERS
  value: {{ required "kafka.bootstrapServers: where is Kafka? HOST:PORT,..." .Values.kafka.bootstrapServers | quote }}
- name: DIFFFAKE_SECURITY_PROTOCOL
  value: {{ .Values.kafka.securityProtocol | quote }}
- name: DIFFFAKE_MAX_MESSAGE_BYTES
  value: {{ .Values.kafka.maxMessageBytes | int | quote }}
{{- with .Values.kafka.tls }}
{{- if .secretName }}
- name: DIFFFAKE_TLS_CA
  value: /etc/difffake/tls/{{ .ca }}
{{- if .certificate }}
- name: DIFFFAKE_TLS_CERTIFICATE
  value: /etc/difffake/tls/{{ .certificate }}
- name: DIFFFAKE_TLS_KEY
  value: /etc/difffake/tls/{{ required "kafka.tls.key: the key of kafka.tls.certificate" .key }}
{{- end }}
{{- end }}
- name: DIFFFAKE_TLS_CHECK_HOSTNAME
  value: {{ .checkHostname | quote }}
{{- end }}
{{- with .Values.kafka.sasl }}
{{- if .mechanism }}
- name: DIFFFAKE_SASL_MECHANISM
  value: {{ .mechanism | quote }}
- name: DIFFFAKE_SASL_USERNAME
  value: {{ required "kafka.sasl.username: who are we?" .username | quote }}
- name: DIFFFAKE_SASL_PASSWORD_FILE
  value: /etc/difffake/sasl/{{ .passwordKey }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "difffake.kafkaMounts" -}}
- name: tmp
  mountPath: /tmp
{{- if .Values.kafka.tls.secretName }}
- name: tls
  mountPath: /etc/difffake/tls
  readOnly: true
{{- end }}
{{- if .Values.kafka.sasl.mechanism }}
- name: sasl
  mountPath: /etc/difffake/sasl
  readOnly: true
{{- end }}
{{- end -}}

{{- define "difffake.kafkaVolumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 256Mi
{{- with .Values.kafka.tls.secretName }}
- name: tls
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- if .Values.kafka.sasl.mechanism }}
- name: sasl
  secret:
    secretName: {{ required "kafka.sasl.secretName: which secret holds the password?" .Values.kafka.sasl.secretName }}
    defaultMode: 0440
{{- end }}
{{- end -}}
