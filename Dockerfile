FROM python:3.11-slim AS packages
COPY requirements.txt requirements-dev.txt ./
# pymilvus or pyarrow, for the service on Milvus or batches from Parquet; their versions are those that the tests ran with
ARG EXTRA_PACKAGES=""
RUN pip install --no-cache-dir --no-compile --prefix /packages --requirement requirements.txt \
        --constraint requirements-dev.txt ${EXTRA_PACKAGES} \
    && find /packages -depth -type d -name tests -exec rm -rf {} +

FROM python:3.11-slim AS sample-index
COPY --from=packages /packages /usr/local
WORKDIR /app
COPY retrieval retrieval
COPY index_builder index_builder
COPY data/products.jsonl.gz data/users_batch.json data/
RUN python -m index_builder --products data/products.jsonl.gz --queries data/users_batch.json --out artifacts

FROM python:3.11-slim
COPY --from=packages /packages /usr/local
WORKDIR /app
COPY retrieval retrieval
COPY index_builder index_builder
COPY service service
RUN python -m compileall -q /usr/local/lib/python3.11/site-packages retrieval index_builder service \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin reco
COPY --from=sample-index /app/artifacts artifacts
USER 10001
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 5000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --start-interval=1s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ.get('RECO_PORT') or 5000}/health/ready\", timeout=2)"]
ENTRYPOINT ["python", "-m", "service"]
CMD ["serve"]
