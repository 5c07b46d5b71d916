BEGIN TRANSACTION;
CREATE TABLE access_key_use (
	access_key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	used_at INTEGER NOT NULL, 
	CONSTRAINT pk_access_key_use PRIMARY KEY (access_key_id)
);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('log_0003');
CREATE TABLE encryption_count (
	material_id TEXT NOT NULL, 
	reserved INTEGER NOT NULL, 
	CONSTRAINT pk_encryption_count PRIMARY KEY (material_id), 
	CONSTRAINT ck_encryption_count_reserved CHECK (reserved >= 0)
);
INSERT INTO "encryption_count" VALUES('6abc92528a302822d0c7a45f4407c8d04a1c827501443c3fa256a3103439c253',1);
INSERT INTO "encryption_count" VALUES('07004cdb3398e792e0547b6adbbfff9735fc1d88243cd8d718371fa536e030a2',1);
INSERT INTO "encryption_count" VALUES('dc28b19c7a0bc68ff9075c40b8105ac22ba5c7c44be37349c775a71eaa417af7',1);
CREATE TABLE last_use (
	key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	operation TEXT NOT NULL, 
	used_at INTEGER NOT NULL, 
	request_id TEXT NOT NULL, 
	CONSTRAINT pk_last_use PRIMARY KEY (key_id, region), 
	CONSTRAINT ck_last_use_operation CHECK (operation IN ('Decrypt', 'DeriveSharedSecret', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyPair', 'GenerateDataKeyPairWithoutPlaintext', 'GenerateDataKeyWithoutPlaintext', 'GenerateMac', 'ReEncrypt', 'Sign', 'Verify', 'VerifyMac', 'Encapsulate', 'Decapsulate'))
);
INSERT INTO "last_use" VALUES('5b3a3788-0c75-4cb9-af5d-33bb6f78cc81','eu-central-1','Encrypt',1795686300875755,'80326b19-9446-440c-93b4-1605d41e8dbc');
INSERT INTO "last_use" VALUES('7361fdbc-2258-4b41-b778-73a9315a4f25','eu-central-1','Encrypt',1795686319131019,'04485b64-6f36-4bd1-b85b-79c297efb3f8');
CREATE TABLE sweeper (
	only INTEGER NOT NULL, 
	holder TEXT NOT NULL, 
	until INTEGER NOT NULL, 
	CONSTRAINT pk_sweeper PRIMARY KEY (only), 
	CONSTRAINT ck_sweeper_only CHECK (only = 1)
);
CREATE TABLE use_tracking (
	only INTEGER NOT NULL, 
	since INTEGER NOT NULL, 
	CONSTRAINT pk_use_tracking PRIMARY KEY (only), 
	CONSTRAINT ck_use_tracking_only CHECK (only = 1)
);
INSERT INTO "use_tracking" VALUES(1,1795686280235737);
COMMIT;
